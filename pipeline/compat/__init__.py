"""Interfaces of other libraries on this engine. A script changes one import and runs."""
