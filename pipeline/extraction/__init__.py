"""Extraction of one task in one process: reading and decoding its images, running networks, storing the partial."""
