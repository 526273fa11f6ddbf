"""Measure your own images with the network and the histogram axes of a catalogue, as a set or one by one.

    v = measure_images(cat, "photos/")                  # a VDNA that can be compared with those of the catalogue
    cat.nearest(v, k=3)
    rank_images(cat, "photos/", "demo_faces")           # one row per image: how far it is from the dataset

Measuring needs torch and the weights of the network, but neither Ray nor Hydra. `measured` and `against` are the former
names of the two functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from distributions import VDNA
from distributions.distances import cdf
from distributions.kernels import row_emd
from distributions.spec import difference_between
from extractors import Extractor, build
from pipeline.catalogue.reader import CatalogueReader
from pipeline.catalogue.stored import StoredVDNA
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.config.networks import named_extractor
from pipeline.data.decode import BadImage, decode
from pipeline.data.discovery import find
from pipeline.data.plan import network_spec
from pipeline.data.readers import ShardReader, in_turn
from pipeline.data.shards import Shard, Task, images_in
from pipeline.errors import DamagedError, UserError
from pipeline.measure.make import make_vdna
from pipeline.storage import cache

Told = Callable[[int, int | None], object]
"""Called with the number of images read, and the number of all images (None while it is unknown)."""


def measure_images(
    cat: CatalogueReader,
    source: str | Path,
    extractor: str | None = None,
    beside: str | None = None,
    storage: Mapping[str, Any] | None = None,
    told: Told | None = None,
) -> VDNA:
    """Compute the VDNA of your images as the catalogue's VDNAs were made.

    The network, layers, distributions and histogram axes are those of the catalogue.

    The VDNA is kept in the cache of this machine. Images that are the same bytes as before are read and hashed, but not
    measured again.

    Args:
        cat: An open catalogue.
        source: A folder, tar, zip, Parquet file, image or URL.
        extractor: An extractor of the catalogue. None: that of `beside`, or else the one with the most datasets.
        beside: The dataset of the catalogue that the VDNA is to be compared with.
        storage: fsspec options for reading the source.
        told: Called after each image with the number of images read, and the number of all images or None: first while
            the images are compared with those in the cache, then while they are measured.

    Returns:
        A VDNA that `cat.nearest` and `cat.compare` take.

    Raises:
        UserError: There is nothing at `source`, or the catalogue's network cannot be made from its name.
    """
    example = cat.example(extractor, beside)
    spec, shards = example.spec, find([str(source)], storage=dict(storage or {}))
    cached, name = CatalogueWriter(str(cache.folder() / "measured")), Task(0, tuple(shards)).id
    with suppress(DamagedError, UserError, OSError):
        if partial := cached.get_partial(spec, name):
            hashes = {record.key: record.sha256 for record in partial[0].ledger}
            if _hash_shards(shards, storage, told) == hashes:
                return partial[0]
    options: dict[str, Any] = {"ranges": spec.ranges, "positions": spec.positions, "storage": storage, "told": told}
    vdna = make_vdna(source, _network(example), spec.distributions, **options)
    with suppress(UserError, OSError):  # works without a cache if it cannot be written
        cached.put_partial(vdna, name, {})
        cache.tidy()
    return vdna


def _hash_shards(
    shards: Sequence[Shard], storage: Mapping[str, Any] | None, told: Told | None
) -> dict[tuple[str, str], str]:
    """SHA-256 of the shards' present contents, as in a ledger.

    Hashing takes a tenth of the time of measuring. Times and sizes of files alone could be the same for other images.
    """
    readers, number = [ShardReader(shard, dict(storage or {})) for shard in shards], images_in(shards)
    for done, _ in enumerate(in_turn(readers), start=1):
        if told:
            told(done, number)
    return {(reader.shard.url, reader.shard.part): reader.sha256 for reader in readers}


def rank_images(
    cat: CatalogueReader,
    source: str | Path,
    dataset: str,
    extractor: str | None = None,
    storage: Mapping[str, Any] | None = None,
    told: Told | None = None,
) -> pd.DataFrame:
    """Rank single images by their distance from a dataset.

    Args:
        cat: An open catalogue, whose VDNA of the dataset has a histogram.
        source: A folder, tar, zip, Parquet file, image or URL.
        dataset: A dataset of the catalogue.
        extractor: Which extractor of the catalogue is used. None: the dataset's.
        storage: fsspec options for reading the source.
        told: Called after each image with the number of images read, and the number of all images or None.

    Returns:
        A row for each image, the farthest image first. `image` is its name, `emd` the EMD in bins between its
            histograms and those of the dataset, averaged over all neurons, and `differs most in` the layer with the
            largest EMD. An image that cannot be read has NaN, and the reason in place of the layer.

    Raises:
        UserError: There is nothing at `source`, no such dataset, or the network cannot be made from its name.
    """
    example, shards = cat.example(extractor, dataset), find([str(source)], storage=dict(storage or {}))
    number = images_in(shards)
    example.require("histogram")
    network = _network(example)
    name = next(n for n in example.spec.distributions if n.startswith("histogram"))
    spec = replace(example.spec, distributions=(name,))
    example.fetch("histogram")
    shares = {layer: cdf(example.histogram(layer)) for layer in spec.layers}
    rows: list[tuple[str, float, str]] = []

    def distances(image: torch.Tensor) -> dict[str, np.ndarray]:
        """EMD of each neuron, by layer."""
        alone = VDNA(spec)
        network(image[None].to(network.device), lambda layer, values: alone.update(layer, values.cpu()))
        return {layer: row_emd(cdf(alone.histogram(layer)), of_dataset) for layer, of_dataset in shares.items()}

    for _, key, data in in_turn([ShardReader(shard, dict(storage or {})) for shard in shards]):
        if told:
            told(len(rows) + 1, number)
        try:
            if isinstance(data, BadImage):
                raise data
            by_layer = distances(network.preprocess(decode(data, **network.preprocess.decoding), key))
        except BadImage as bad:
            rows.append((key, np.nan, bad.reason))
            continue
        farthest = max(by_layer, key=lambda layer: float(by_layer[layer].mean()))
        rows.append((key, float(np.concatenate(list(by_layer.values())).mean()), farthest))
    table = pd.DataFrame(rows, columns=["image", "emd", "differs most in"])
    return table.sort_values(["emd", "image"], ascending=[False, True], na_position="last", ignore_index=True)


measured = measure_images
against = rank_images


def _network(example: StoredVDNA) -> Extractor:
    """The network of a VDNA, built from the name of its extractor. Raises `UserError` if it is not the same network."""
    spec = example.spec
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build(named_extractor(spec.extractor, spec.precision), device)
    built = network_spec(network)
    if built.network_id != spec.network_id:
        raise UserError(
            f"extractor {spec.extractor}: this catalogue was made with another network of that name "
            f"({difference_between(built, replace(spec, distributions=built.distributions, ranges=None))}); "
            "build that one, and pass make_vdna(…, extractor=…, ranges=cat.vdna(…).spec.ranges) to cat.nearest"
        )
    return network
