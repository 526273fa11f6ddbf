"""Measure images in this process, without Ray: `make.make_vdna`, and `images` with the network of a catalogue."""
