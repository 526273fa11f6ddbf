"""A catalogue of made-up datasets in the real format, for the site's tests and figures.

    store = make(tmp_path, 12)          # VDNAs, their distances, index and site: what a web server can serve
    python -m tests.helpers.synthetic 1000 /tmp/catalogue

A dataset's activations are drawn around one of a few latent centres, so datasets of a kind lie together.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distributions import VDNA, HistogramAxes, ShardRecord, Spec
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.sketches import sketches
from pipeline.catalogue.writer import Store
from pipeline.formats.manifests import contents, now
from pipeline.matrix import assembling
from pipeline.matrix.tiles import Tiler, tiles

LAYERS = {"block_0": 16, "block_1": 16, "norm": 24}
FULL = ("histogram-100", "gaussian", "layer-gaussian", "activation-ranges")
FAST = ("histogram-100", "gaussian")
KINDS = (
    *("street-scenes", "birds", "faces", "histology", "satellite", "sketches", "chest-xrays", "food", "flowers"),
    *("plankton", "galaxies", "handwriting", "fashion", "interiors", "insects", "paintings", "product-photos"),
    *("underwater", "crops", "night-driving"),
)
SOURCES = ("museum", "flickr", "field", "lab", "web", "phone", "drone", "studio", "archive", "citizen", "survey")
PLACES = ("north", "coast", "alps", "delta", "harbour", "plateau", "island", "valley", "old-town", "lowland")
LICENCES = ("CC-BY-4.0", "CC0-1.0", "CC-BY-NC-4.0", "MIT", "research only", "")
WORDS = ("as collected, without filtering", "the validation split", "resized copies", "one image per scene", "")
MANY = 200
IMAGES = 48


def spec_of(extractor: str = "vit_small", distributions: tuple[str, ...] = FULL) -> Spec:
    neurons = sum(LAYERS.values())
    axes = HistogramAxes(LAYERS, np.full(neurons, -5.0), np.full(neurons, 6.0))
    ranges = axes if any(name.startswith("histogram") for name in distributions) else None
    weights = hashlib.sha256(extractor.encode()).hexdigest()
    return Spec(extractor, extractor, weights, "clean.224-256-centre", "fp32", LAYERS, distributions, ranges)


def names(count: int) -> list[tuple[str, int]]:
    """Names of datasets, each with the kind it is of."""
    kinds: dict[str, int] = {}
    generator = np.random.default_rng(3)
    weights = generator.dirichlet(np.full(len(KINDS), 1.5))
    while len(kinds) < count:
        kind = len(kinds) if len(kinds) < min(count, 4) else int(generator.choice(len(KINDS), p=weights))
        name = f"{KINDS[kind]}-{generator.choice(SOURCES)}-{generator.integers(2011, 2026)}"
        if name in kinds:
            name += f"-{generator.choice(PLACES)}"
        kinds.setdefault(name, kind)
    return list(kinds.items())


def filled(spec: Spec, name: str, kind: int, images: int, positions: int = 4) -> VDNA:
    """The VDNA of a dataset of that kind."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    own, kinds = np.random.default_rng(seed), np.random.default_rng(kind)
    family = np.random.default_rng(1000 + kind % 5)  # kinds themselves come in a few families
    vdna = VDNA(spec)
    for depth, (layer, neurons) in enumerate(LAYERS.items()):
        centre = (0.4 + 0.3 * depth) * (family.standard_normal(neurons) + 0.7 * kinds.standard_normal(neurons))
        centre += 0.25 * own.standard_normal(neurons)
        spread = np.exp(0.25 * kinds.standard_normal(neurons) + 0.1 * own.standard_normal(neurons))
        mixed = own.standard_normal((images, positions, 4)) @ (0.3 * own.standard_normal((4, neurons)))
        values = centre + spread * (0.8 * own.standard_normal((images, positions, neurons)) + mixed)
        vdna.update(layer, torch.from_numpy(values.astype(np.float32)))
    skipped = {"corrupt": int(own.integers(1, 9)), "too small": 2} if seed % 3 == 0 else {}
    # The ledger may say more than was drawn: figures are to look like a catalogue's.
    counted = int(np.exp(own.normal(10.5, 1.6)))
    vdna.ledger.add(ShardRecord(f"s3://{name}/000.tar", size=10_000, counted=counted, skipped=skipped))
    return vdna


def facts_of(name: str, kind: int) -> dict[str, Any]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[4:8], "little")
    words = WORDS[seed % len(WORDS)]
    return {
        "url": f"https://data.example.org/{name}/{{000..031}}.tar" if seed % 2 else f"s3://bucket/{name}/000.tar",
        "description": f"{KINDS[kind].replace('-', ' ').capitalize()}, {words}" if words else "",
        "licence": LICENCES[seed % len(LICENCES)],
        "extractor_licence": "Apache-2.0",
        "fingerprint": hashlib.sha256(name.encode()).hexdigest(),
        "provenance": {"program": "vdna-catalogue 0.1.0", "torch": torch.__version__},
    }


def fill(store: Store, spec: Spec, datasets: Sequence[tuple[str, int]], images: int = IMAGES) -> None:
    """Store VDNAs and their matrix with the real machinery."""
    if len(datasets) < MANY:
        _put_all(store, spec, images, datasets)
    else:  # packing is Python's own work, so threads would not help
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
            list(processes.map(partial(_put_all, store, spec, images), (datasets[::2], datasets[1::2])))
    compared(store, spec)


def compared(store: Store, spec: Spec) -> None:
    """Store the matrix of a spec's VDNAs; only new pairs are computed."""
    members = [m for m in store.manifests() if m["spec"] == spec.id]
    matrix = assembling.empty(members, spec)
    old = store.get_distances(spec.extractor, spec.id)
    todo, tiler = tiles(spec, members, assembling.reuse(matrix, old)), Tiler(spec, members)
    assembling.fill(matrix, todo, lambda tile: tiler.distances(tile, store))
    matrix = matrix.assign(sketches(store, spec, members, old))
    facts = {"digest": contents(members), "datasets": [m["dataset"] for m in members], "created": now()}
    store.put_distances(spec.id, spec.extractor, matrix, facts)


def _put_all(store: Store, spec: Spec, images: int, datasets: Sequence[tuple[str, int]]) -> None:
    for name, kind in datasets:
        store.put_vdna(filled(spec, name, kind, images), name, facts_of(name, kind))


def make(folder: Path | str, count: int, images: int = IMAGES) -> Store:
    """A catalogue of that many datasets under one spec, published. Of many there is no FD, which takes minutes."""
    store = Store(str(folder))
    fill(store, spec_of(distributions=FULL if count < MANY else FAST), names(count), images)
    publish(store)
    return store


if __name__ == "__main__":
    make(sys.argv[2], int(sys.argv[1]), *map(int, sys.argv[3:4]))
