"""Input data: finding shards, reading the images in them, and decoding the images."""
