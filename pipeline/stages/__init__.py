"""The stages of a run, in order: plan, calibrate, extract, reduce, compare, publish.

Each is a module with `run(context, ...)`. They meet only in the store, so any can be asked for alone.
"""
