"""Extraction, all four distributions in one pass, against the network alone and the vdna library.

    python -m bench.extract                   # some minutes

Ours is a task's whole way: tars of 500 px JPEGs are read, decoded, resized, run and counted, and the partial is
stored, of 1,536 images; a usual task has more. The bare network gets batches that are ready. Both take turns, and a
ratio is of neighbours.
The vdna library gets the same network and the same images as files, and makes its four VDNAs one after another.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the pool sets it

import timm
import torch

from bench.figures import ROUNDS, Figures, figure, ratios, seconds, table
from bench.pictures import jpegs, tar
from distributions import ActivationRanges, HistogramAxes, Spec
from extractors import ExtractorConfig, FrozenNetwork, build
from pipeline.catalogue.writer import Store
from pipeline.data.discovery import find
from pipeline.data.plan import network_spec
from pipeline.data.shards import Task
from pipeline.extraction.worker import Job, Worker, cores
from pipeline.measure.make import DISTRIBUTIONS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vdna.networks import FeatureExtractionModel
    from vdna.utils.settings import DataSettings, ExtractionSettings, NetworkSettings
    from vdna.vdnas import get_vdna

NETWORKS = {
    "vit_tiny": "vit_tiny_patch16_224",
    "lite0": "tf_efficientnet_lite0",
    "resnet50": "resnet50",
}
IMAGES = {"vit_tiny": 1536, "lite0": 1536, "resnet50": 512}
SEED_IMAGES = 256
BATCH = 32


def against_bare(name: str, folder: Path) -> Figures:
    config = ExtractorConfig(name, NETWORKS[name], weights="random")
    task = Task(0, tuple(find(str(folder / "*.tar"))))
    network = build(config)
    spec = spec_of(network, task)
    worker = Worker(Job(config, spec, BATCH, cores(), cores()))
    bare = _Bare(network)
    images = worker.vdna(task).images  # warms the kernels up as well
    fewer = -(-images // (BATCH * 3)) * BATCH  # as many as ours gets would only take longer
    ours, theirs, lanes = [], [], []
    for turn in range(ROUNDS):
        theirs.append(fewer / seconds(bare.run, fewer))
        lanes.append(fewer / seconds(bare.run_in_lanes, fewer))
        ours.append(images / seconds(worker.run, task, Store(str(folder / f"catalogue-{turn}"))))
    return {
        f"extract_{name}": figure(ratios(ours, theirs), "of the bare forward's images/s"),
        f"extract_{name}_vs_lanes": figure(ratios(ours, lanes), "of the bare network's in lanes"),
        f"extract_{name}_images": figure(ours, "images/s"),
        f"bare_{name}_images": figure(theirs, "images/s"),
    }


class _Bare:
    """The same network in the same memory format, without hooks, on all threads, on batches that are ready."""

    def __init__(self, network: FrozenNetwork) -> None:
        self.model = timm.create_model(network.config.model).eval().requires_grad_(False)
        self.model.load_state_dict(network.state())
        self.model.to(memory_format=network.memory_format)
        size = network.preprocess.size
        self.batch = torch.randn(BATCH, 3, size, size).contiguous(memory_format=network.memory_format)

    @torch.inference_mode()
    def run(self, images: int) -> None:
        for _ in range(-(-images // BATCH)):
            self.model(self.batch)

    def run_in_lanes(self, images: int) -> None:
        """One thread for each of several batches, as we run it."""
        with ThreadPoolExecutor(cores(), "lane", torch.set_num_threads, (1,)) as lanes:
            list(lanes.map(self.run, [images // cores()] * cores()))


class _Seeds(FeatureExtractionModel):
    """The vdna library's extraction, with a network of this project."""

    def __init__(self, network: FrozenNetwork, axes: HistogramAxes) -> None:
        look = network.preprocess
        super().__init__(
            NetworkSettings(look.mean, look.std, network.layers, (look.size, look.size)),
            ExtractionSettings(num_workers=cores(), batch_size=BATCH, device="cpu", verbose=False, n_sample_images=1),
            json.loads(axes.to_json()),
        )
        self.network = network

    def get_features(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        features: dict[str, torch.Tensor] = {}

        def keep(layer: str, activations: torch.Tensor) -> None:
            features[layer] = activations.transpose(1, 2)[..., None]

        self.network(batch, keep)
        return features


def against_seed(name: str, folder: Path) -> Figures:
    """The same images, as files for the vdna library and as a tar for this project."""
    config = ExtractorConfig(name, NETWORKS[name], weights="random")
    images = list(itertools.islice(jpegs(), SEED_IMAGES))
    for index, data in enumerate(images):
        (folder / f"{index:04d}.jpg").write_bytes(data)
    task = Task(0, tuple(find(str(tar(folder / "images.tar", images)))))
    network = build(config)
    spec = spec_of(network, task)
    assert spec.ranges is not None
    worker = Worker(Job(config, spec, BATCH, cores(), cores()))
    worker.vdna(task)
    ours, theirs = [], []
    for turn in range(ROUNDS):
        taken = 0.0
        for distribution in DISTRIBUTIONS:
            seeds, source = _Seeds(network, spec.ranges), DataSettings(source=str(folder), shuffle_files=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                taken += seconds(get_vdna(distribution).fill_vdna, seeds, source)
        theirs.append(len(images) / taken)
        ours.append(len(images) / seconds(worker.run, task, Store(str(folder / f"catalogue-{turn}"))))
    return {
        "extract_vs_seed": figure(ratios(ours, theirs), "times the images/s of the vdna library"),
        "extract_seed_images": figure(theirs, "images/s, four passes"),
    }


def spec_of(network: FrozenNetwork, task: Task) -> Spec:
    observed = Worker(Job(network.config, network_spec(network), BATCH, cores(), cores())).vdna(task)
    axes = HistogramAxes.calibrated(observed.find(ActivationRanges))
    return replace(network_spec(network), distributions=DISTRIBUTIONS, ranges=axes)


def measure(names: Sequence[str] = ()) -> Figures:
    figures: Figures = {}
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            images = list(itertools.islice(jpegs(), IMAGES[name]))
            for shard in range(2):
                tar(Path(folder) / f"{shard}.tar", images[shard::2])
            figures |= against_bare(name, Path(folder))
    if not names:
        with tempfile.TemporaryDirectory() as folder:
            figures |= against_seed("vit_tiny", Path(folder))
    return figures


if __name__ == "__main__":
    print(table(measure(sys.argv[1:])))
