"""A VDNA as a Zarr v3 group that anyone can open with xarray, and back.

    objects = pack(to_dataset(vdna, {}), consolidated=True)     # {"histogram/c/0/0": bytes, ..., "zarr.json": bytes}
    from_dataset(unzip(zipped(objects)))                        # the same VDNA, its digest checked

The only place that knows Zarr.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr.buffer
import zarr.codecs
import zarr.storage

from distributions import VDNA, IncompatibleError, Ledger, Ranges, ShardRecord, Spec

FORMAT = 1
CHUNK_BYTES = 4 << 20
LEDGER_TEXT = ("url", "part", "etag", "sha256", "damage")
LEDGER_NUMBERS = ("size", "counted", "lost_bytes")


class DamagedError(Exception):
    """A stored object is not what was written: its contents do not have the digest they were stored with."""


def to_dataset(vdna: VDNA, attributes: Mapping[str, Any]) -> xr.Dataset:
    """A VDNA as a labelled dataset: dimensions neuron (with its layer), bin, other, shard and reason."""
    spec = vdna.spec
    dims = {name: d for distribution in vdna.distributions.values() for name, d in distribution.dims.items()}
    variables: dict[str, Any] = {name: (dims[name], array) for name, array in vdna.state().items()}
    if spec.ranges and spec.needs_ranges:
        variables["bin_low"] = ("neuron", spec.ranges.low)
        variables["bin_high"] = ("neuron", spec.ranges.high)
    records = list(vdna.ledger)
    reasons = sorted({reason for record in records for reason in record.skipped})
    for name in LEDGER_TEXT:
        variables[f"shard_{name}"] = ("shard", np.array([getattr(r, name) for r in records], dtype=object))
    for name in LEDGER_NUMBERS:
        variables[f"shard_{name}"] = ("shard", np.array([getattr(r, name) for r in records], dtype=np.int64))
    skipped = np.array([[r.skipped.get(reason, 0) for reason in reasons] for r in records], dtype=np.int64)
    variables["shard_skipped"] = (("shard", "reason"), skipped.reshape(len(records), len(reasons)))
    coordinates = {
        "layer": ("neuron", np.repeat(np.array(list(spec.layers), dtype=object), list(spec.layers.values()))),
        "unit": ("neuron", np.concatenate([np.arange(n) for n in spec.layers.values()])),
        "reason": ("reason", np.array(reasons, dtype=object)),
    }
    fixed = {
        "format": FORMAT,
        "spec": spec.id,
        "extractor": spec.extractor,
        "architecture": spec.architecture,
        "weights": spec.weights,
        "preprocessing": spec.preprocessing,
        "precision": spec.precision,
        "layers": json.dumps(dict(spec.layers)),
        "distributions": json.dumps(list(spec.distributions)),
        "digest": vdna.digest(),
    }
    return xr.Dataset(variables, coordinates, {**attributes, **fixed})


def from_dataset(dataset: xr.Dataset, expected: Spec | None = None) -> VDNA:
    """The VDNA in a dataset. Raises `DamagedError` when the digest does not agree, `IncompatibleError`
    when it is not of the `expected` spec."""
    a = dataset.attrs
    layers = json.loads(a["layers"])
    ranges = None
    if "bin_low" in dataset:
        ranges = Ranges(layers, dataset["bin_low"].to_numpy(), dataset["bin_high"].to_numpy(), "exact")
    names = tuple(json.loads(a["distributions"]))
    network = (a["architecture"], a["weights"], a["preprocessing"], a["precision"])
    spec = Spec(a["extractor"], *network, layers, names, ranges)
    if expected is not None and spec.id != expected.id:
        raise IncompatibleError("made with another network, distributions or ranges")
    vdna = VDNA(spec)
    reasons = [str(reason) for reason in dataset["reason"].to_numpy()]
    columns = {n: dataset[f"shard_{n}"].to_numpy().tolist() for n in (*LEDGER_TEXT, *LEDGER_NUMBERS)}
    skipped = dataset["shard_skipped"].to_numpy().reshape(-1, len(reasons)) if reasons else None
    records = [
        ShardRecord(
            **{name: values[i] for name, values in columns.items()},
            skipped={} if skipped is None else {r: int(n) for r, n in zip(reasons, skipped[i], strict=True) if n},
        )
        for i in range(dataset.sizes["shard"])
    ]
    arrays = {name: dataset[name].to_numpy() for d in vdna.distributions.values() for name in d.dims}
    vdna.load(arrays, Ledger(records))
    if vdna.digest() != a["digest"]:
        raise DamagedError("its contents are not those it was written with")
    return vdna


def pack(dataset: xr.Dataset, consolidated: bool) -> dict[str, bytes]:
    """The objects of a Zarr v3 group, by name; the group's own metadata last."""
    compressor = zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    encoding: dict[str, Any] = {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "uif" and variable.ndim:
            encoding[str(name)] = {"compressors": [compressor], "chunks": _chunks(dataset, variable)}
    store = zarr.storage.MemoryStore()
    with warnings.catch_warnings():
        # Readers without consolidated metadata need a request per array; the Zarr v3 text is still to come.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=UserWarning)
        dataset.to_zarr(store, zarr_format=3, consolidated=consolidated, encoding=encoding, mode="w")
    objects = {name: bytes(buffer.to_bytes()) for name, buffer in store._store_dict.items()}
    return {name: objects[name] for name in sorted(objects, key=lambda name: (name == "zarr.json", name))}


def _chunks(dataset: xr.Dataset, variable: xr.Variable) -> tuple[int, ...]:
    """Chunk shape: one layer where all layers are equally wide, else about `CHUNK_BYTES` of whole rows.

    Zarr's grid is regular, so layers of different widths cannot each be a chunk.
    """
    shape = tuple(max(size, 1) for size in variable.shape)
    if variable.ndim < 2 or variable.dims[0] != "neuron":
        return shape
    widths = set(json.loads(dataset.attrs["layers"]).values())
    rows = max(CHUNK_BYTES // (variable.dtype.itemsize * int(np.prod(shape[1:]))), 1)
    return (min(widths.pop() if len(widths) == 1 else rows, shape[0]), *shape[1:])


def zipped(objects: Mapping[str, bytes]) -> bytes:
    """A zip in memory whose bytes depend on nothing but its contents: no clock, no compression of its own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in objects.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def unzip(data: bytes) -> xr.Dataset:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        objects = {name: archive.read(name) for name in archive.namelist()}
    buffer = zarr.buffer.cpu.Buffer
    store = zarr.storage.MemoryStore({name: buffer.from_bytes(content) for name, content in objects.items()})
    dataset: xr.Dataset = xr.open_zarr(store, consolidated=False, chunks=None).load()
    return dataset
