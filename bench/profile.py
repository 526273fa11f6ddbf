"""Where the processor's time goes in an extraction, part by part: milliseconds of one core for each image.

    python -m bench.profile                   # a minute

Each part is run alone on what it gets in an extraction of vit_tiny, so that nothing competes with it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the pool sets it

import torch

from bench.extract import BATCH, NETWORKS, spec_of
from bench.figures import ROUNDS, Figures, figure, table
from bench.pictures import jpegs, tar
from distributions import VDNA
from distributions.base import Batch
from extractors import ExtractorConfig, build
from extractors.preprocess.resize import bicubic, normalise
from pipeline.catalogue.writer import Store
from pipeline.data.decode import decode
from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Task

IMAGES = 64
TASK_IMAGES = 10_000
"""Of a usual task: its partial is stored once."""


def measure() -> Figures:
    torch.set_num_threads(1)  # as in a lane
    name = "vit_tiny"
    network = build(ExtractorConfig(name, NETWORKS[name], weights="random"))
    look = network.preprocess
    with tempfile.TemporaryDirectory() as folder:
        files = list(itertools.islice(jpegs(), IMAGES))
        shards = find(str(tar(Path(folder) / "images.tar", files)))
        vdna = VDNA(spec_of(network, Task(0, tuple(shards))))
        torch.set_num_threads(1)
        pictures = [decode(file) for file in files]
        planes = [bicubic(picture, look.size, look.size) for picture in pictures]
        inputs = [look(picture) for picture in pictures]
        batches = [torch.stack(inputs[i : i + BATCH]) for i in range(0, IMAGES, BATCH)]
        kept: list[tuple[str, torch.Tensor]] = []
        for batch in batches:
            network(batch, lambda layer, activations: kept.append((layer, activations.clone())))
        buffer = torch.empty_like(batches[0])

        def folding(distribution: str) -> Callable[[], object]:
            accumulator = vdna.distributions[distribution]
            ready = [(layer, Batch(activations)) for layer, activations in kept]
            for _, batch in ready:
                assert batch.images.numel()  # the means are a part of their own
            return lambda: [accumulator.fold(layer, batch) for layer, batch in ready]

        parts: dict[str, Callable[[], object]] = {
            "read": lambda: [sum(1 for _ in ShardReader(shard)) for shard in shards],
            "of which hash": lambda: [hashlib.sha256(file).digest() for file in files],
            "decode": lambda: [decode(file) for file in files],
            "resize": lambda: [bicubic(picture, look.size, look.size) for picture in pictures],
            "normalise": lambda: [normalise(plane, look.mean, look.std) for plane in planes],
            "stack": lambda: [
                torch.stack(inputs[i : i + BATCH], out=buffer[: len(inputs[i : i + BATCH])])
                for i in range(0, IMAGES, BATCH)
            ],
            "network": lambda: [network(batch, lambda *_: None) for batch in batches],
            "image means": lambda: [Batch(activations).images for _, activations in kept],
            **{distribution: folding(distribution) for distribution in vdna.distributions},
        }
        figures: Figures = {}
        for part, action in parts.items():
            figures[f"profile {part}"] = figure([_cpu(action) / IMAGES * 1e3 for _ in range(ROUNDS)], "ms of a core")
        store = Store(f"{folder}/catalogue")
        stored = [_cpu(lambda: store.put_partial(vdna, "task", {})) / TASK_IMAGES * 1e3 for _ in range(ROUNDS)]
        figures["profile partial"] = figure(stored, f"ms of a core, with {TASK_IMAGES} images to a task")
    return figures


def _cpu(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


if __name__ == "__main__":
    print(table(measure()))
