"""The worker's memory does not grow with the number of images."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.commands import ROOT

SCRIPT = """
import json, resource, sys
from dataclasses import replace
from pipeline.data.shards import Task
from pipeline.data.discovery import find
from pipeline.measure.make import build, network_spec
from pipeline.config.networks import named_extractor
from pipeline.extraction.worker import Job, Worker
from distributions import HistogramAxes
import numpy as np

config = named_extractor("test_vit", weights="random")
spec = network_spec(build(config))
neurons = sum(spec.layers.values())
axes = HistogramAxes(spec.layers, np.full(neurons, -3.0), np.full(neurons, 3.0))
four = ("histogram-1000", "gaussian", "layer-gaussian", "activation-ranges")
worker = Worker(Job(config, replace(spec, distributions=four, ranges=axes), 32, 1, 1))
for shards in (sys.argv[1:2], sys.argv[1:]):
    images = worker.vdna(Task(0, tuple(find(shards)))).images
    print(json.dumps([images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))   # the largest so far, MiB
"""


def test_500_and_5000_images_need_the_same(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    tars = []
    for shard in range(10):
        tars.append(tmp_path / f"{shard}.tar")
        with tarfile.open(tars[-1], "w") as tar:
            for i in range(500):
                data = io.BytesIO()
                Image.fromarray(draw.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(data, "JPEG")
                member = tarfile.TarInfo(f"{i}.jpg")
                member.size = data.tell()
                data.seek(0)
                tar.addfile(member, data)
    command = [sys.executable, "-c", SCRIPT, *map(str, tars)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=True)
    (few, of_few), (many, of_many) = map(json.loads, done.stdout.splitlines())
    assert (few, many) == (500, 5000)
    assert of_many < of_few * 1.03, (of_few, of_many)
