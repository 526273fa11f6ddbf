"""What the commands `python -m pipeline.run`, `… pipeline.catalogue` and `… pipeline.extractors` do."""
