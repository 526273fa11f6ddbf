"""Groups are those that xarray and zarr write, byte for byte, and are read as xarray reads them."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numcodecs.zstd
import numpy as np
import pytest
import torch
import xarray as xr
import zarr.buffer
import zarr.codecs
import zarr.storage

from distributions import VDNA, HistogramAxes, ShardRecord, Spec
from pipeline.errors import DamagedError
from pipeline.formats import chunks, groups
from pipeline.formats.datasets import to_dataset
from pipeline.formats.groups import open_group, pack


def vdna(layers: Mapping[str, int], records: int) -> xr.Dataset:
    width = sum(layers.values())
    names = ("histogram-100", "gaussian", "layer-gaussian", "activation-ranges")
    axes = HistogramAxes(layers, np.full(width, -1.0), np.ones(width))
    made = VDNA(Spec("net", "a", "w", "p", "fp32", layers, names, axes))
    generator = torch.Generator().manual_seed(0)
    for layer, neurons in layers.items():
        made.update(layer, torch.randn((4, 3, neurons), generator=generator))
    for number in range(records):
        skipped = {"corrupt": number, "é": 1} if number % 2 else {}
        made.ledger.add(ShardRecord(f"s3://a/{number}.tar", "0-1", size=number - 1, counted=number, skipped=skipped))
    return to_dataset(made, {"task": "t", "numbers": [1, 2], "é": 0.5})


def matrix(datasets: int) -> xr.Dataset:
    draw = np.random.default_rng(0)
    names = np.array([f"dataset_{number:03}" for number in range(datasets)], dtype=object)
    dims = ("dataset", "other", "layer")
    variables = {
        "emd": (dims, draw.random((datasets, datasets, 12)), {"units": "bins"}),
        "overall": (dims[:2], draw.random((datasets, datasets))),
        "sketch": (("dataset", "neuron", "cell"), draw.integers(0, 9, (datasets, 700, 2)).astype("u2")),
        "half": (("dataset", "neuron"), np.where(draw.random((datasets, 700)) < 0.5, np.nan, 1).astype("f2")),
    }
    return xr.Dataset(variables, {"dataset": names, "other": names, "neurons": ("layer", np.arange(12))}, {"spec": "s"})


def images(rows: int) -> xr.Dataset:
    values = np.zeros((rows, 4096), np.float32)
    values[-1, -1], values[0, 0] = np.inf, -0.0
    return xr.Dataset(
        {"layer": (("image", "neuron"), values)}, {"key": ("image", np.array([f"k{i}" for i in range(rows)], object))}
    )


DATASETS: dict[str, Callable[[], xr.Dataset]] = {
    "layers of one width": lambda: vdna({f"block_{number}": 48 for number in range(5)}, 3),
    "layers of other widths": lambda: vdna({"a": 3, "b": 700, "c": 1}, 1),
    "nothing counted": lambda: to_dataset(VDNA(Spec("net", "a", "w", "p", "fp32", {"a": 3}, ("gaussian",))), {}),
    "a matrix": lambda: matrix(90),
    "one dataset": lambda: matrix(1),
    "several chunks of images": lambda: images(700),
}


def by_xarray(dataset: xr.Dataset, consolidated: bool, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    compressor = zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    encoding = {
        str(name): {"compressors": [compressor], "chunks": metadata[str(name)]}
        for name, variable in dataset.variables.items()
        if variable.dtype.kind in "uif" and variable.ndim
    }
    store = zarr.storage.MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(store, zarr_format=3, consolidated=consolidated, encoding=encoding, mode="w")
    return {name: bytes(data.to_bytes()) for name, data in store._store_dict.items()}


@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("make", DATASETS.values(), ids=DATASETS.keys())
def test_they_are_the_bytes_that_xarray_writes(make: Callable[[], xr.Dataset], consolidated: bool) -> None:
    dataset = make()
    objects = pack(dataset, consolidated)
    opened = zarr.open_group(stored(objects), mode="r", zarr_format=3, use_consolidated=False)
    chunks = {name: array.chunks for name, array in opened.arrays()}
    assert objects == by_xarray(dataset, consolidated, chunks)
    assert list(objects)[-1] == "zarr.json"


def stored(objects: Mapping[str, bytes]) -> zarr.storage.MemoryStore:
    return zarr.storage.MemoryStore({name: zarr.buffer.cpu.Buffer.from_bytes(data) for name, data in objects.items()})


@pytest.mark.parametrize("make", DATASETS.values(), ids=DATASETS.keys())
def test_they_are_read_as_xarray_reads_them(make: Callable[[], xr.Dataset]) -> None:
    dataset = make()
    objects = pack(dataset, consolidated=False)
    ours = open_group(objects)
    theirs = xr.open_zarr(stored(objects), zarr_format=3, consolidated=False, chunks=None, decode_times=False)
    xr.testing.assert_identical(ours, theirs)
    assert {name: ours[name].dtype for name in ours.variables} == {
        name: theirs[name].dtype for name in theirs.variables
    }
    for name, variable in dataset.variables.items():
        np.testing.assert_array_equal(ours[name].to_numpy(), variable.to_numpy())
        assert ours[name].dims == variable.dims


def test_they_are_the_same_bytes_from_any_thread() -> None:
    """Blosc writes the blocks of a large chunk in any order if several of its threads work on the chunk."""
    dataset = images(2000)
    packed: list[dict[str, bytes]] = []
    thread = threading.Thread(target=lambda: packed.append(pack(dataset, consolidated=False)))
    thread.start()
    thread.join()
    for _ in range(3):
        assert pack(dataset, consolidated=False) == packed[0]


def test_an_array_is_decoded_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    original = chunks.decode

    def decode(array: str, *rest: Any) -> np.ndarray:
        decoded.append(array)
        return original(array, *rest)

    objects = pack(vdna({"a": 3, "b": 2}, 1), consolidated=False)
    monkeypatch.setattr(groups, "decode", decode)
    dataset = open_group(objects)
    assert "histogram" not in decoded
    dataset["histogram"].to_numpy()
    assert "histogram" in decoded


BIG_ENDIAN = [
    {"name": "bytes", "configuration": {"endian": "big"}},
    {"name": "blosc", "configuration": {"typesize": 8, "cname": "zstd", "clevel": 3, "shuffle": "shuffle"}},
]
UNLIKE: list[dict[str, Any]] = [
    {"codecs": BIG_ENDIAN},
    {"fill_value": None},
    {"fill_value": {}},
    {"fill_value": [7, 8, 9]},
    {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
    {"chunk_grid": {"name": "rectilinear", "configuration": {"chunk_shape": [5]}}},
    {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0]}}},
    {"node_type": "group"},
    {"zarr_format": 2},
    {"dimension_names": "neuron"},
    {"shape": []},
    {"shape": [1 << 25], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}}},
    {"shape": [0], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0]}}},
]


@pytest.mark.parametrize("change", UNLIKE, ids=str)
@pytest.mark.parametrize("array", ["mean", "shard_url"])
def test_metadata_unlike_those_that_are_written_are_damage(array: str, change: dict[str, Any]) -> None:
    objects = pack(vdna({"a": 3, "b": 2}, 5), consolidated=False)
    name = f"{array}/zarr.json"
    with pytest.raises(DamagedError):
        open_group({**objects, name: json.dumps(json.loads(objects[name]) | change).encode()})


def test_what_texts_claim_is_not_allocated() -> None:
    objects = pack(vdna({"a": 3, "b": 2}, 5), consolidated=False)
    meta = json.loads(objects["shard_url/zarr.json"])
    huge = {"shape": [1 << 28], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 28]}}}
    with pytest.raises(DamagedError, match="its array shard_url"):
        open_group({**objects, "shard_url/zarr.json": json.dumps(meta | huge).encode()})
    texts = numcodecs.zstd.Zstd().encode((1 << 31).to_bytes(4, "little") + b"\0" * 16)
    opened = open_group({**objects, "shard_url/c/0": texts})
    with pytest.raises(DamagedError, match="claims another number of texts"):
        opened["shard_url"].to_numpy()
