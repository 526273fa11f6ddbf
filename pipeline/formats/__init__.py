"""File formats: Zarr groups and their chunks, manifests, and the files of the `vdna` library and of FID programs."""
