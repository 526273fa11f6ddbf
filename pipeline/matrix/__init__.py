"""Compute the distances between all datasets of a catalogue in tiles."""
