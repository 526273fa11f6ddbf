"""The distances between all datasets of a catalogue, computed in tiles."""
