"""What the forked workers find imported: see `tests.helpers.ray_workers`. Nothing of it may import Ray."""

import timm
import torch

import pipeline.extraction.worker
import pipeline.matrix.tiles

__all__ = ["pipeline", "timm", "torch"]
