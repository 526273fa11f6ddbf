"""What the forked programs find imported: see `tests.helpers.forked`. The programs themselves are not among it."""

import hydra.core.hydra_config
import matplotlib.pyplot
import open_clip
import ray
import timm
import torch
import xarray

import pipeline.catalogue
import pipeline.cli.catalogue
import pipeline.cli.runs
import pipeline.measure.make
import pipeline.stages.calibrate
import pipeline.stages.compare
import pipeline.stages.extract
import pipeline.stages.plan
import pipeline.stages.publish
import pipeline.stages.reduce

__all__ = ["hydra", "matplotlib", "open_clip", "pipeline", "ray", "timm", "torch", "xarray"]
