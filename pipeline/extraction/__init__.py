"""One task in one process: its images are read and decoded ahead, and go through the network into a partial."""
