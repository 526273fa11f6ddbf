"""Nothing that is read is trusted: what a partial, a group or an imported file claims is checked before it costs."""

from __future__ import annotations

import io
import json
import pickle
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numcodecs.pickles
import numcodecs.zstd
import numpy as np
import pytest
import xarray as xr
import zarr.buffer
import zarr.storage

from distributions import VDNA, HistogramAxes, IncompatibleError
from pipeline.errors import DamagedError, UserError
from pipeline.formats.datasets import from_dataset, to_dataset
from pipeline.formats.groups import open_group, pack, unzip, zipped
from pipeline.formats.vdna_files import read, write
from tests.helpers.material import LAYERS, spec

Objects = dict[str, bytes]


@pytest.fixture
def objects(filled: Callable[..., VDNA]) -> Objects:
    return pack(to_dataset(filled(1), {}), consolidated=False)


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, "a few bytes took 300 MiB"


def edited(objects: Objects, path: str, **fields: Any) -> Objects:
    """The objects with fields of a zarr.json changed; `attributes__spec` is a field of its attributes."""
    meta = json.loads(objects[path])
    for name, value in fields.items():
        *outer, last = name.split("__")
        inner = meta
        for key in outer:
            inner = inner[key]
        inner[last] = value
    return {**objects, path: json.dumps(meta).encode()}


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "caught"))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objects: Objects) -> None:
    """A group of Zarr's version 2 with a filter that unpickles, which older numcodecs run without being asked."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    filters = [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]
    array = {"zarr_format": 2, "shape": [8], "chunks": [8], "dtype": "|O", "compressor": None, "filters": filters}
    planted = {
        ".zgroup": b'{"zarr_format": 2}',
        "mean/.zarray": json.dumps({**array, "fill_value": "", "order": "C"}).encode(),
        "mean/.zattrs": b'{"_ARRAY_DIMENSIONS": ["neuron"]}',
        "mean/0": pickle.dumps(Trap(tmp_path / "caught")),
    }
    buffer = zarr.buffer.cpu.Buffer
    store = zarr.storage.MemoryStore({name: buffer.from_bytes(data) for name, data in planted.items()})
    with pytest.raises(TypeError):  # only after the trap was sprung
        xr.open_zarr(store, consolidated=False, chunks=None).load()
    assert (tmp_path / "caught").exists()
    (tmp_path / "caught").unlink()
    both = {name: data for name, data in objects.items() if not name.startswith("mean/")}
    for group in (planted, {**objects, **planted}, {**both, **planted}):
        try:
            from_dataset(unzip(zipped(group)))
        except DamagedError:
            continue
        assert group == {**objects, **planted}  # whose version 3 is whole
    assert not (tmp_path / "caught").exists()


LARGE = 10**9
ATTRIBUTES: list[tuple[str, Any]] = [
    ("layers", '{"first": 5, "second": -3}'),
    ("layers", '{"first": 5, "second": true}'),
    ("layers", json.dumps({"first": 5, "second": 2**40})),
    ("layers", "{}"),
    ("layers", "[5, 3]"),
    ("layers", 8),
    ("layers", "[" * 100_000),
    ("layers", '{"first": 5, "other": 3}'),
    ("distributions", '["histogram-999999"]'),
    ("distributions", '["gaussian", "gaussian"]'),
    ("distributions", '["no-such"]'),
    ("distributions", "[[]]"),
    ("distributions", "8"),
    ("format", 0),
    ("format", None),
    ("weights", 5),
    ("weights", "another"),
    ("extractor", None),
    ("spec", "0" * 16),
    ("digest", "0" * 64),
    ("digest", 0),
    ("sources", "0" * 64),
]


@pytest.mark.parametrize(("name", "value"), ATTRIBUTES, ids=[f"{n}={str(v)[:20]}" for n, v in ATTRIBUTES])
def test_attributes(objects: Objects, name: str, value: Any, ranges: HistogramAxes) -> None:
    hostile = edited(objects, "zarr.json", **{f"attributes__{name}": value})
    with pytest.raises(DamagedError):
        from_dataset(unzip(zipped(hostile)))
    with pytest.raises((DamagedError, IncompatibleError)):
        from_dataset(unzip(zipped(hostile)), spec(ranges))


def chunks(*shape: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


ARRAYS: list[tuple[str, dict[str, Any]]] = [
    ("histogram", {"shape": [LARGE, 20]}),
    ("histogram", {"shape": [10**30, 20]}),
    ("histogram", {"shape": [-8, 20]}),
    ("histogram", {"shape": [8.0, 20]}),
    ("histogram", {"shape": [8, 20, 1]}),
    ("histogram", {"shape": [7, 20]}),
    ("histogram", {"shape": "8"}),
    ("histogram", {"chunk_grid": chunks(LARGE, LARGE)}),
    ("histogram", {"chunk_grid": chunks(0, 20)}),
    ("histogram", {"data_type": "int64"}),
    ("histogram", {"data_type": "no-such"}),
    ("histogram", {"data_type": {"name": "fixed_length_utf32", "configuration": {"length_bytes": LARGE}}}),
    ("histogram", {"codecs": [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]}),
    ("histogram", {"codecs": [{"name": "numcodecs.pickle"}]}),
    ("histogram", {"codecs": []}),
    ("mean", {"attributes": {"scale_factor": 2.0}}),
    ("mean", {"attributes": {"units": "days since 1970-01-01"}, "data_type": "float32"}),
    ("mean", {"dimension_names": ["elsewhere"]}),
    ("bin_low", {"shape": [LARGE], "chunk_grid": chunks(LARGE)}),
    ("shard_url", {"shape": [LARGE], "chunk_grid": chunks(LARGE)}),
    ("shard_counted", {"data_type": "float64"}),
    ("reason", {"shape": [LARGE], "chunk_grid": chunks(LARGE)}),
    ("reason", {"node_type": "group"}),
]


@pytest.mark.parametrize(("array", "fields"), ARRAYS, ids=[f"{a}-{str(f)[:30]}" for a, f in ARRAYS])
def test_arrays(objects: Objects, array: str, fields: dict[str, Any]) -> None:
    hostile = edited(objects, f"{array}/zarr.json", **fields)
    try:
        vdna = from_dataset(unzip(zipped(hostile)))
    except DamagedError:
        return
    assert vdna.digest() == from_dataset(open_group(objects)).digest()  # a name or a unit that nothing reads


def test_an_index_is_not_made_of_any_size(objects: Objects) -> None:
    """A variable named like a dimension is decoded as soon as the group is opened."""
    planted = edited(objects, "count/zarr.json", shape=[LARGE], dimension_names=["neuron"], chunk_grid=chunks(LARGE))
    with pytest.raises(DamagedError, match="neuron"):
        unzip(zipped({**objects, "neuron/zarr.json": planted["count/zarr.json"]}))


def test_chunks_are_no_bombs(objects: Objects) -> None:
    blosc = numcodecs.blosc.Blosc("zstd").encode(np.zeros(400 << 20, np.uint8))
    zstd = bytes(numcodecs.zstd.Zstd().encode(np.zeros(400 << 20, np.uint8)))
    assert len(blosc) + len(zstd) < 100_000
    for path, chunk in (
        ("histogram/c/0/0", blosc),
        ("shard_url/c/0", zstd),
        ("shard_url/c/0", zstd[:5] + b"\xff" * 99),
    ):
        with pytest.raises(DamagedError, match=r"claims to unpack|not those of a VDNA|does not say"):
            from_dataset(unzip(zipped({**objects, path: chunk})))


def test_zips_are_no_bombs(objects: Objects) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zarr.json", "w") as entry:
        for _ in range(400):
            entry.write(bytes(1 << 20))
    with pytest.raises(DamagedError, match="compressed entries"):
        unzip(packed.getvalue())
    with pytest.raises(DamagedError, match="not a whole zip"):
        unzip(b"PK")
    with pytest.raises(DamagedError, match=r"zarr\.json has"):
        open_group({**objects, "mean/zarr.json": b" " * (65 << 20)})


@pytest.mark.parametrize("value", ["[" * 100_000, '{"node_type": "array"}', "[]", "null", "", "\xff"])
def test_metadata(objects: Objects, value: str) -> None:
    for path in ("zarr.json", "mean/zarr.json"):
        with pytest.raises(DamagedError):
            from_dataset(open_group({**objects, path: value.encode("latin1")}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("shard_counted", -1), ("shard_counted", 2**60), ("shard_size", -2), ("shard_lost_bytes", -1)),
        *(("shard_skipped", -1), ("shard_url", "x" * 100_000), ("shard_url", "another"), ("shard_etag", "another")),
        *(("shard_damage", "none"), ("reason", "another")),
    ],
)
def test_the_ledger(filled: Callable[..., VDNA], name: str, value: Any) -> None:
    dataset = to_dataset(filled(1), {})
    dataset[name] = xr.full_like(dataset[name], value)
    with pytest.raises(DamagedError):
        from_dataset(unzip(zipped(pack(dataset, consolidated=False))))


def test_two_records_of_one_shard_are_refused(filled: Callable[..., VDNA]) -> None:
    dataset = to_dataset(filled(1), {})
    twice = dataset.isel(shard=[0, 0])
    with pytest.raises(DamagedError, match="counted twice"):
        from_dataset(unzip(zipped(pack(twice, consolidated=False))))


# -- imported files ------------------------------------------------------------------------------------------------


@pytest.fixture
def seed(filled: Callable[..., VDNA], tmp_path: Path) -> Path:
    write(filled(1), tmp_path / "x", "layer-gaussian")
    return tmp_path / "x"


META: list[tuple[str, Any, str]] = [
    ("feature_extractor_name", "../../etc", "cannot name a folder"),
    ("feature_extractor_name", 5, "not a VDNA"),
    ("neurons_list", {"first": 5, "second": -3}, "not numbers"),
    ("neurons_list", {"first": 5, "second": 3.0}, "not numbers"),
    ("neurons_list", {"first": 5, "second": LARGE}, "too many"),
    ("neurons_list", {"first": 5, "second": 4_000_000}, "too large"),
    ("neurons_list", [5, 3], "not a VDNA"),
    ("neurons_list", {"first": 3, "second": 5}, r"mu-first is float64\(5,\) and not \(3,\)"),
    ("num_images", -1, "not numbers"),
    ("num_images", 1e300, "not numbers"),
    ("num_images", 2**60, "too many"),
    ("name", "histogram-999999", "not a VDNA"),
    ("name", "no-such", "unknown distribution"),
    ("data_settings", None, "not a VDNA"),
]


@pytest.mark.parametrize(("name", "value", "message"), META, ids=[f"{n}={str(v)[:30]}" for n, v, _ in META])
def test_descriptions(seed: Path, name: str, value: Any, message: str) -> None:
    path = seed.with_name("x.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(UserError, match=message):
        read(seed)


def test_descriptions_that_are_no_descriptions(seed: Path) -> None:
    for text in ("[" * 100_000, "[]", "null", "", '{"name": ' * 50_000):
        seed.with_name("x.json").write_text(text)
        with pytest.raises(UserError, match="not a VDNA of the vdna library"):
            read(seed)


def test_arrays_of_the_seed(seed: Path, tmp_path: Path) -> None:
    with np.load(seed.with_name("x.npz")) as content:
        arrays = dict(content)
    hostile: list[dict[str, Any]] = [
        {"mu-first": np.zeros(4)},
        {"mu-first": np.array([Trap(tmp_path / "caught")] * 5, dtype=object)},
        {"mu-first": np.full(5, np.nan)},
        {"mu-first": np.zeros(5, "S5")},
        {"sigma-first": np.zeros((40_000_000,))},
    ]
    for fields in hostile:
        np.savez_compressed(seed.with_name("x.npz"), **{**arrays, **fields})
        with pytest.raises(UserError, match="first"):
            read(seed)
    assert not (tmp_path / "caught").exists()
    for data in (b"", b"PK", b"\x93NUMPY\1\0", pickle.dumps(Trap(tmp_path / "caught"))):
        seed.with_name("x.npz").write_bytes(data)
        with pytest.raises(UserError, match="not a VDNA of the vdna library"):
            read(seed)
    assert not (tmp_path / "caught").exists()


SIDES = '{"mins_per_neuron": %s, "maxs_per_neuron": %s, "rule": %s}'
TEXTS = [
    *("[" * 100_000, "[]", "5", '"mins_per_neuron"', SIDES % (5, 5, 5), SIDES % ("{}", "{}", '"exact"')),
    *(SIDES % ('{"a": {}}', '{"a": {}}', '"exact"'), SIDES % ('{"a": {"0": 0}}', '{"a": {"1": 0}}', '"exact"')),
    *(
        SIDES % (f'{{"a": {{"0": {low}}}}}', f'{{"a": {{"0": {high}}}}}', rule)
        for low, high, rule in (
            *((2, 1, '"exact"'), (0, 1, "[]"), (0, 1, '"no-such"'), ("NaN", 1, '"exact"')),
            *((0, "1e308", '"widen"'), (0, 10**400, '"widen"'), ("[]", "[]", '"widen"')),
        )
    ),
]


@pytest.mark.parametrize("text", TEXTS, ids=[text[:80] for text in TEXTS])
def test_ranges(text: str) -> None:
    with pytest.raises(ValueError, match="not a ranges file"):
        HistogramAxes.from_json(text)


def test_ranges_that_are_ranges(ranges: HistogramAxes) -> None:
    assert HistogramAxes.from_json(ranges.to_json()).id == ranges.id
    assert dict(ranges.layers) == LAYERS
