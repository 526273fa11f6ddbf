"""What lies on a disk or in a bucket: Zarr groups and their chunks, manifests, and the files of other programs."""
