"""The commands `python -m pipeline.run`, `python -m pipeline.catalogue` and `python -m pipeline.extractors`."""
