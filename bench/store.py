"""Partials: packed and written, read and checked, merged, beside what the disk does with the same bytes.

    python -m bench.store                     # a minute

The partial is a ViT-B's with all four distributions: 9,984 neurons, 1,000 bins, 13 covariances. Megabytes are those of
its arrays.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.figures import ROUNDS, VIT_B, Figures, figure, ratios, seconds, table
from distributions import VDNA, HistogramAxes, ShardRecord, Spec
from pipeline.catalogue.writer import Store
from pipeline.measure.make import DISTRIBUTIONS

IMAGES, POSITIONS = 64, 197


def measure() -> Figures:
    vdna = partial()
    size = sum(array.nbytes for array in vdna.state().values()) / 1e6
    written, read, merged, disk = [], [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            store, total = Store(folder), VDNA(vdna.spec)
            written.append(size / seconds(store.put_partial, vdna, "task", {}))
            read.append(size / seconds(store.get_partial, vdna.spec, "task"))
            merged.append(size / seconds(total.merge, vdna))
            packed = (Path(folder) / f"partials/{vdna.spec.id}/task.zip").read_bytes()
            disk.append(size / seconds(_write, Path(folder) / "plain", packed))
    return {
        "store_write": figure(written, "MB/s"),
        "store_read": figure(read, "MB/s"),
        "store_merge": figure(merged, "MB/s"),
        "store_write_vs_disk": figure(ratios(written, disk), "of the disk's speed with the packed bytes"),
        "store_partial_mb": figure([len(packed) / 1e6], f"MB of {size:.0f}"),
    }


def partial() -> VDNA:
    """Of a few images whose activations are normal numbers, with a mean and width of each neuron's own."""
    axes = HistogramAxes(VIT_B, np.full(sum(VIT_B.values()), -6.0), np.full(sum(VIT_B.values()), 6.0))
    vdna = VDNA(Spec("vit", "arch", "0" * 64, "clean", "fp32", VIT_B, DISTRIBUTIONS, axes))
    draw = torch.Generator().manual_seed(0)
    for layer, neurons in VIT_B.items():
        centre, width = torch.randn(neurons, generator=draw), torch.rand(neurons, generator=draw) + 0.2
        for _ in range(IMAGES // 32):
            vdna.update(layer, torch.randn(32, POSITIONS, neurons, generator=draw) * width + centre)
    vdna.ledger.add(ShardRecord("s3://bucket/0.tar", counted=IMAGES))
    return vdna


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        os.fsync(file.fileno())


if __name__ == "__main__":
    print(table(measure()))
