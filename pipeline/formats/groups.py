"""Converting VDNAs to and from Zarr v3 groups, which xarray can open. The only module that imports zarr.

objects = pack(to_dataset(vdna, {}), consolidated=True)     # {"histogram/c/0/0": bytes, ..., "zarr.json": bytes}
from_dataset(unzip(zipped(objects)))                        # the same VDNA, its digest checked
"""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr.buffer
import zarr.codecs
import zarr.storage

from distributions import HistogramAxes, IncompatibleError, Ledger, ShardRecord, Spec
from distributions.spec import arrays_of, bins_of
from pipeline.errors import NEWER, DamagedError, UserError

if TYPE_CHECKING:
    from distributions import VDNA

FORMAT = 1
CHUNK_BYTES = 4 << 20
TILE_BYTES = 512 << 10
"""Bytes of a chunk of a matrix. Smaller than `CHUNK_BYTES`, because readers of a matrix need a pair or a row."""
MAX_METADATA = 64 << 20
MAX_NEURONS = 1 << 22
MAX_GROUP = 64 << 30
"""Largest size in bytes of a group's arrays. A VDNA with a million neurons and a thousand bins has 8 GiB."""
MAX_INDEX = 1 << 20
MAX_TEXTS = 64 << 20
"""Bytes that a chunk of texts may unpack to, plus a hundred for each stored byte: names compress well."""
MAX_TEXT = 1 << 16
MAX_NUMBER = 1 << 53
TEXT_BYTES = 8
ITEM_BYTES = {"uint16": 2, "float16": 2, "float32": 4, "float64": 8, "int64": 8, "uint64": 8, "string": 0}
ARRAY_ATTRIBUTES = {"coordinates", "_FillValue", "units"}
LEDGER_TEXT = ("url", "part", "etag", "sha256", "damage")
LEDGER_NUMBERS = ("size", "counted", "lost_bytes")


def to_dataset(vdna: VDNA, attributes: Mapping[str, Any]) -> xr.Dataset:
    """A VDNA as a labelled dataset with the dimensions `neuron`, `bin`, `other`, `shard` and `reason`.

    The coordinate `layer` names the layer of each neuron, and `unit` is the neuron's index in its layer. `attributes`
    are added to the dataset's own.
    """
    spec = vdna.spec
    dims = {name: axes for distribution in spec.distributions for name, axes in arrays_of(distribution).items()}
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
        "positions": json.dumps(dict(spec.positions)),
        "digest": vdna.digest(),
        "sources": vdna.ledger.sources_digest(),
    }
    return xr.Dataset(variables, coordinates, {**attributes, **fixed})


def from_dataset(dataset: xr.Dataset, expected: Spec | None = None) -> VDNA:
    """The VDNA in a dataset.

    Raises `DamagedError` if the dataset holds no VDNA or its digests do not match, `IncompatibleError` if its spec is
    not `expected`, and `UserError` if a newer version wrote it. Nothing larger than the arrays of the spec is allocated
    before the checks.
    """
    with damage("its contents are not those of a VDNA"):
        spec = _spec(dataset)
    if expected is not None and spec.id != expected.id:
        raise IncompatibleError("made with another network, distributions or ranges")
    from distributions import VDNA  # imports torch, which the rest of this module does not need

    with damage("its contents are not those of a VDNA"):
        state, ledger = _state(dataset, spec), ledger_of(dataset)
        vdna = VDNA(spec)
        vdna.load(state, ledger)
        digests = {"spec": spec.id, "digest": vdna.digest(), "sources": vdna.ledger.sources_digest()}
    for name, digest in digests.items():
        if dataset.attrs.get(name) != digest:
            raise DamagedError(f"its contents are not those it was written with: another {name}")
    return vdna


@contextmanager
def damage(words: str) -> Iterator[None]:
    """Turn exceptions into a `DamagedError` that begins with `words`. For damaged input zarr, xarray, zipfile, json and
    their codecs raise exceptions of many kinds."""
    try:
        yield
    except (DamagedError, UserError):
        raise
    except Exception as error:
        raise DamagedError(f"{words} ({type(error).__name__}: {str(error)[:200]})") from error


def _spec(dataset: xr.Dataset) -> Spec:
    a = dataset.attrs
    network = (a["extractor"], a["architecture"], a["weights"], a["preprocessing"], a["precision"])
    layers, names = json.loads(a["layers"]), json.loads(a["distributions"])
    if type(a["format"]) is int and a["format"] > FORMAT:
        raise UserError(NEWER)
    sound = a["format"] == FORMAT and all(isinstance(text, str) for text in network)
    sound = sound and isinstance(layers, dict) and all(type(n) is int and n > 0 for n in layers.values())
    if not (sound and 0 < sum(layers.values()) <= MAX_NEURONS):
        raise DamagedError("its attributes are not those of a VDNA")
    ranges = None
    if "bin_low" in dataset:
        low, high = (_array(dataset, name, (sum(layers.values()),)) for name in ("bin_low", "bin_high"))
        ranges = HistogramAxes(layers, low, high, "exact")
    return Spec(*network, layers, tuple(names), ranges, json.loads(a.get("positions", "{}")))


def _state(dataset: xr.Dataset, spec: Spec) -> dict[str, np.ndarray]:
    sizes = {"neuron": sum(spec.layers.values()), "other": max(spec.layers.values())}
    state: dict[str, np.ndarray] = {}
    for distribution in spec.distributions:
        sizes["bin"] = bins_of(distribution) or 0
        for name, dims in arrays_of(distribution).items():
            state[name] = _array(dataset, name, tuple(sizes[dim] for dim in dims))
    return state


def ledger_of(dataset: xr.Dataset) -> Ledger:
    """The ledger in a dataset. Needs only the arrays `shard_…` and `reason`."""
    shape = dataset.sizes["shard"], dataset.sizes["reason"]
    numbers = {name: _array(dataset, f"shard_{name}", shape[:1]) for name in LEDGER_NUMBERS}
    texts = {name: _texts(dataset, f"shard_{name}") for name in LEDGER_TEXT}
    reasons, skipped = _texts(dataset, "reason"), _array(dataset, "shard_skipped", shape)
    for name, values in (*numbers.items(), ("skipped", skipped)):
        minimum = -1 if name == "size" else 0  # -1: the store did not state the size
        if values.dtype != np.int64 or (values < minimum).any() or (values > MAX_NUMBER).any():
            raise DamagedError(f"its ledger says impossible numbers {name}")
    rows = zip(*texts.values(), *(values.tolist() for values in numbers.values()), skipped.tolist(), strict=True)
    return Ledger(
        ShardRecord(
            **dict(zip((*texts, *numbers), columns, strict=True)),
            skipped={reason: n for reason, n in zip(reasons, counts, strict=True) if n},
        )
        for *columns, counts in rows
    )


def _array(dataset: xr.Dataset, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of numbers. Checks its shape before it decodes it."""
    variable = dataset[name]
    if variable.shape != shape or variable.dtype.kind not in "uif":
        raise DamagedError(f"its array {name} is {variable.dtype}{variable.shape} and not {shape}")
    return np.asarray(variable.to_numpy())


def _texts(dataset: xr.Dataset, name: str) -> list[str]:
    texts: list[str] = dataset[name].to_numpy().tolist()
    if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts):
        raise DamagedError(f"its {name} is not as this program writes it")
    return texts


def pack(dataset: xr.Dataset, consolidated: bool) -> dict[str, bytes]:
    """The objects of a Zarr v3 group, by name, with the group's own metadata last.

    `consolidated` adds the metadata of all arrays to the group's, so that readers need fewer requests.
    """
    compressor = zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    encoding: dict[str, Any] = {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "uif" and variable.ndim:
            encoding[str(name)] = {"compressors": [compressor], "chunks": _chunks(dataset, variable)}
    store = zarr.storage.MemoryStore()
    with warnings.catch_warnings():
        # Without consolidated metadata readers make a request per array. The specification of Zarr v3 still lacks it.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=UserWarning)
        dataset.to_zarr(store, zarr_format=3, consolidated=consolidated, encoding=encoding, mode="w")
    objects = {name: bytes(buffer.to_bytes()) for name, buffer in store._store_dict.items()}
    return {name: objects[name] for name in sorted(objects, key=lambda name: (name == "zarr.json", name))}


def _chunks(dataset: xr.Dataset, variable: xr.Variable) -> tuple[int, ...]:
    """The chunk shape of an array.

    In a VDNA, a chunk is one layer if all layers have the same width, otherwise about `CHUNK_BYTES` of whole rows:
    Zarr's grid is regular, so layers of different widths cannot each be a chunk. An array with a row for each image has
    about `CHUNK_BYTES` of whole rows. In a matrix, a chunk has `TILE_BYTES`: a square with all layers, or whole rows.
    """
    shape = tuple(max(size, 1) for size in variable.shape)
    if variable.dims[:2] == ("dataset", "other"):
        cells = max(TILE_BYTES // (variable.dtype.itemsize * math.prod(shape[2:])), 1)
        if len(shape) == 2:
            return min(max(cells // shape[1], 1), shape[0]), shape[1]
        return (*(min(max(math.isqrt(cells), 1), size) for size in shape[:2]), *shape[2:])
    row_bytes = variable.dtype.itemsize * math.prod(shape[1:])
    if variable.dims[:2] == ("dataset", "neuron"):
        return min(max(TILE_BYTES // row_bytes, 1), shape[0]), *shape[1:]
    rows = max(CHUNK_BYTES // row_bytes, 1)
    if variable.dims[0] == "image":
        return min(rows, shape[0]), *shape[1:]
    if variable.ndim < 2 or variable.dims[0] != "neuron":
        return shape
    widths = set(json.loads(dataset.attrs["layers"]).values())
    return min(widths.pop() if len(widths) == 1 else rows, shape[0]), *shape[1:]


def zipped(objects: Mapping[str, bytes]) -> bytes:
    """A zip in memory, without compression and with a fixed date: its bytes depend only on `objects`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in objects.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def unzip(data: bytes) -> xr.Dataset:
    """The dataset in a zip that `zipped` has made. Arrays are decoded when they are used. Raises `DamagedError`."""
    with damage("not a whole zip"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size for e in entries):
            raise DamagedError("a zip with compressed entries")
        if sum(e.file_size for e in entries) > len(data):
            raise DamagedError("a zip that claims more than it holds")
        objects = {e.filename: archive.read(e) for e in entries}
    return open_group(objects)


def open_group(objects: Mapping[str, bytes]) -> xr.Dataset:
    """The dataset of a Zarr group whose objects are in memory. Arrays are decoded when they are used.

    Raises `DamagedError` unless `pack` could have made the group.
    """
    buffer = zarr.buffer.cpu.Buffer
    with damage("not a Zarr group as this program writes them"):
        _check(objects)
        store = zarr.storage.MemoryStore({name: buffer.from_bytes(content) for name, content in objects.items()})
        # Only version 3: version 2 has filters that unpickle data.
        dataset: xr.Dataset = xr.open_zarr(store, zarr_format=3, consolidated=False, chunks=None, decode_times=False)
    return dataset


def _check(objects: Mapping[str, bytes]) -> None:
    """Refuse a group whose arrays are too large, or whose chunks would unpack to more than the arrays' shapes state."""
    total, chunk_bytes = 0, {}
    for path, content in objects.items():
        array, _, name = path.rpartition("/")
        if name != "zarr.json":
            continue
        if len(content) > MAX_METADATA:
            raise DamagedError(f"{path} has {len(content)} bytes")
        meta = json.loads(content)
        if array:
            size, chunk_bytes[array] = chunk_sizes(array, meta)
            total += size
    if total > MAX_GROUP:
        raise DamagedError(f"its arrays would take {total} bytes")
    for path, content in objects.items():
        array, _, name = path.partition("/c/")
        if not name:
            continue
        expected, claimed = chunk_bytes[array], unpacked_size(content)
        texts = MAX_TEXTS + 100 * len(content)
        if claimed != expected if expected else claimed > texts:
            raise DamagedError(f"{path} claims to unpack to {claimed} bytes")


def chunk_sizes(array: str, meta: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of an array and of one of its chunks, unpacked; 0 for a chunk of texts, which has no fixed size. Raises
    `DamagedError` for metadata that `pack` does not write."""
    shape, chunks = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    if 0 in shape:  # an empty array has no chunks, and its type may differ from that of texts
        return 0, 0
    size, codecs = ITEM_BYTES[meta["data_type"]], [codec["name"] for codec in meta["codecs"]]
    sound = codecs == (["bytes", "blosc"] if size else ["vlen-utf8", "zstd"])
    sound = sound and set(meta["attributes"]) <= ARRAY_ATTRIBUTES and all(type(n) is int for n in (*shape, *chunks))
    sound = sound and all(n >= 0 and 1 <= c <= max(n, 1) for n, c in zip(shape, chunks, strict=True))
    indexed = meta["dimension_names"] == [array]  # xarray decodes such an array when it opens the group
    if not sound or (indexed and math.prod(shape) > MAX_INDEX):
        raise DamagedError(f"its array {array} is not as this program writes them")
    return math.prod(shape) * (size or TEXT_BYTES), math.prod(chunks) * size


def unpacked_size(chunk: bytes) -> int:
    """The unpacked size in bytes that a chunk's header states: Blosc's, or a Zstandard frame's (RFC 8878, 3.1.1.1)."""
    if chunk[:4] != b"\x28\xb5\x2f\xfd":
        return int.from_bytes(chunk[4:8], "little")
    flags = chunk[4]
    start = 5 + (not flags & 32) + (0, 1, 2, 4)[flags & 3]
    width = (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
    if not width:
        raise DamagedError("a chunk does not say its size")
    return int.from_bytes(chunk[start : start + width], "little") + 256 * (width == 2)
