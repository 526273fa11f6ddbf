"""The stages of a run, in order: plan, calibrate, extract, reduce, compare, publish.

Each stage is a module with `run(context, ...)`. Stages exchange data only through the store, so each can run alone.
"""
