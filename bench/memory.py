"""The peak of a worker's memory over 1,000 and over 20,000 images.

    python -m bench.memory                    # a quarter of an hour

Each measurement is a process of its own, which makes a task's partial and says its peak.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.figures import ROUNDS, Figures, figure, table
from bench.pictures import jpegs, tar
from distributions import HistogramAxes
from extractors import ExtractorConfig, build
from pipeline.catalogue.writer import Store
from pipeline.data.discovery import find
from pipeline.data.plan import network_spec
from pipeline.data.shards import Task
from pipeline.extraction.worker import Job, Worker, cores
from pipeline.measure.make import DISTRIBUTIONS

FEW, MANY = 1_000, 20_000
MODEL = "test_vit"
"""A small transformer: what is measured does not depend on the network, and it makes 20,000 images short work."""


def measure() -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        images = list(itertools.islice(jpegs(), FEW))
        few, many = [], []
        for shard in range(MANY // FEW):
            tar(path / f"{shard:02d}.tar", images)
        for _ in range(ROUNDS):
            few.append(_peak(path / "00.tar"))
            many.append(_peak(path / "*.tar"))
    return {
        "memory_20k_vs_1k": figure([b / a for a, b in zip(few, many, strict=True)], "of the peak over 1,000 images"),
        "memory_20k": figure(many, "MB"),
    }


def _peak(images: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", str(images)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def one(images: str) -> float:
    """MB at the peak of a worker that makes one partial."""
    config = ExtractorConfig(MODEL, MODEL, weights="random")
    spec = network_spec(build(config))
    edge = np.full(sum(spec.layers.values()), 4.0)
    spec = replace(spec, distributions=DISTRIBUTIONS, ranges=HistogramAxes(spec.layers, -edge, edge))
    with tempfile.TemporaryDirectory() as folder:
        Worker(Job(config, spec, 32, cores(), cores())).run(Task(0, tuple(find(images))), Store(folder))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    print(one(sys.argv[1]) if len(sys.argv) > 1 else table(measure()))
