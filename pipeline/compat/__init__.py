"""The interfaces of libraries that people come from: change one import."""
