"""Chunks of Zarr arrays, encoded and decoded with numcodecs as zarr-python does.

objects = encode({"mean": (meta, values)})         # {"mean/c/0": bytes, ...}; chunks of fill values alone are left out
decode("mean", meta, objects)                      # the same values

`meta` is the metadata of an array (its zarr.json). zarr-python takes several milliseconds for each array, most of them
in its event loop. A partial has thirty arrays, most of which are small.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numcodecs.blosc  # type: ignore[import-untyped]
import numcodecs.vlen  # type: ignore[import-untyped]
import numcodecs.zstd  # type: ignore[import-untyped]
import numpy as np
import zarr.buffer

from pipeline.errors import DamagedError

THREADS = min(8, os.cpu_count() or 1)
MAX_CHUNKS = 1 << 17
"""Largest number of chunks of an array. A matrix of ten thousand datasets has fewer."""
MAX_INDEX = 1 << 20
MAX_TEXTS = 1 << 24
"""Largest number of texts in an array, each of which takes `TEXT_BYTES` even if no chunk is stored."""
TEXT_BYTES = 16
ITEM_BYTES = {"uint16": 2, "float16": 2, "float32": 4, "float64": 8, "int64": 8, "uint64": 8, "string": 0}
ARRAY_ATTRIBUTES = {"coordinates", "_FillValue", "units"}


def encode(arrays: Mapping[str, tuple[Mapping[str, Any], np.ndarray]]) -> dict[str, bytes]:
    """The stored chunks of arrays, by the names of the chunks' objects. Each array is its metadata and its values."""
    # In threads, even a single chunk: in the main thread, Blosc uses threads of its own, which write the blocks of a
    # chunk in any order.
    with ThreadPoolExecutor(THREADS) as threads:
        jobs = {
            name: threads.submit(_encoded, meta, values, region)
            for array, (meta, values) in arrays.items()
            for name, region in grid(array, meta, [slice(0, size) for size in meta["shape"]])
        }
        return {name: data for name, job in jobs.items() if (data := job.result()) is not None}


def _encoded(meta: Mapping[str, Any], values: np.ndarray, region: tuple[slice, ...]) -> bytes | None:
    """The chunk of this region of an array; None if all its values are the fill value."""
    fill, kind = _fill(meta), kind_of_array(meta)
    part, shape = values[region], [each.stop - each.start for each in region]
    if list(part.shape) != shape:
        part = np.pad(part, [(0, n - m) for n, m in zip(shape, part.shape, strict=True)], constant_values=fill)
    part = np.ascontiguousarray(part, kind)
    if zarr.buffer.cpu.NDBuffer.from_numpy_array(part).all_equal(fill):
        return None
    codecs = {codec["name"]: codec["configuration"] for codec in meta["codecs"]}
    if "blosc" in codecs:
        name, level, blocks = (codecs["blosc"][key] for key in ("cname", "clevel", "blocksize"))
        encoded = numcodecs.blosc.compress(part, name.encode(), level, numcodecs.blosc.SHUFFLE, blocks, kind.itemsize)
    else:
        encoded = numcodecs.zstd.Zstd(**codecs["zstd"]).encode(numcodecs.vlen.VLenUTF8().encode(part.astype(object)))
    return bytes(encoded)


def decode(
    array: str, meta: Mapping[str, Any], objects: Mapping[str, bytes], region: Sequence[slice] = ()
) -> np.ndarray:
    """The values of an array in `region`, a slice for each dimension, or of the whole array.

    `chunk_sizes` and `unpacked_size` have accepted the metadata and the chunks. A chunk that is not among the objects
    has fill values alone. A whole array is decoded in several threads, and a region in the thread that asks for it:
    regions are small and read in threads already.
    """
    whole = not region
    region = region or [slice(0, size) for size in meta["shape"]]
    result = np.empty([part.stop - part.start for part in region], kind_of_array(meta))

    def fill(name: str, chunk: tuple[slice, ...]) -> None:
        shape = [part.stop - part.start for part in chunk]
        shared = [slice(max(p.start, c.start), min(p.stop, c.stop)) for p, c in zip(region, chunk, strict=True)]
        target = result[_within(shared, region)]
        if name not in objects:
            target[...] = _fill(meta)
        elif meta["data_type"] == "string":
            target[...] = _texts(name, objects[name], math.prod(shape)).reshape(shape)[_within(shared, chunk)]
        elif list(target.shape) == shape and target.flags.c_contiguous:
            numcodecs.blosc.decompress(objects[name], target)  # in place: new memory costs more than decoding
        else:
            values = np.frombuffer(numcodecs.blosc.decompress(objects[name]), result.dtype)
            target[...] = values.reshape(shape)[_within(shared, chunk)]

    chunks = list(grid(array, meta, region))
    if whole and len(chunks) > 1:
        with ThreadPoolExecutor(min(THREADS, len(chunks))) as threads:
            list(threads.map(fill, *zip(*chunks, strict=True)))
    else:
        for name, chunk in chunks:
            fill(name, chunk)
    return result


def _texts(name: str, chunk: bytes, expected: int) -> np.ndarray:
    texts = bytes(numcodecs.zstd.Zstd().decode(chunk))
    if int.from_bytes(texts[:4], "little") != expected:
        raise DamagedError(f"{name} claims another number of texts than its array has")
    return np.asarray(numcodecs.vlen.VLenUTF8().decode(texts))


def _within(region: Sequence[slice], outer: Sequence[slice]) -> tuple[slice, ...]:
    """A region with indices relative to the start of `outer`."""
    return tuple(slice(r.start - o.start, r.stop - o.start) for r, o in zip(region, outer, strict=True))


def _fill(meta: Mapping[str, Any]) -> Any:
    return np.nan if meta["fill_value"] == "NaN" else meta["fill_value"]


def kind_of_array(meta: Mapping[str, Any]) -> np.dtype:
    """The type of an array's values: numbers are little-endian, in memory as on disk."""
    if meta["data_type"] == "string":
        return np.dtypes.StringDType()
    kind: np.dtype = np.dtype(meta["data_type"]).newbyteorder("<")
    return kind


def grid(array: str, meta: Mapping[str, Any], region: Sequence[slice]) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """The name of each chunk of a region, and the part of the array that the chunk holds, which may end beyond it."""
    sizes = meta["chunk_grid"]["configuration"]["chunk_shape"]
    numbers = (range(part.start // size, -(-part.stop // size)) for part, size in zip(region, sizes, strict=True))
    for position in itertools.product(*numbers):
        chunk = tuple(slice(i * size, (i + 1) * size) for i, size in zip(position, sizes, strict=True))
        yield "/".join([array, "c", *map(str, position)]), chunk


def chunk_sizes(array: str, meta: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of an array and of one of its chunks, unpacked; 0 for a chunk of texts, which has no fixed size. Raises
    `DamagedError` for metadata that `pack` does not write."""
    shape, chunks = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    sound = (
        bool(shape)
        and all(type(n) is int for n in (*shape, *chunks))
        and all(n >= 0 and 1 <= c <= max(n, 1) for n, c in zip(shape, chunks, strict=True))
        and math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True)) <= MAX_CHUNKS
        and (meta["zarr_format"], meta["node_type"], meta["chunk_grid"]["name"]) == (3, "array", "regular")
        and meta["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and isinstance(meta["dimension_names"], list)
        and set(meta["attributes"]) <= ARRAY_ATTRIBUTES
    )
    if sound and 0 in shape:  # an empty array has no chunks, and its type may differ from that of texts
        return 0, 0
    size, codecs = ITEM_BYTES[meta["data_type"]], [codec["name"] for codec in meta["codecs"]]
    numbers = codecs == ["bytes", "blosc"] and meta["codecs"][0]["configuration"] == {"endian": "little"}
    if not sound or not (numbers if size else codecs == ["vlen-utf8", "zstd"]):
        raise DamagedError(f"its array {array} is not as this program writes them")
    indexed = meta["dimension_names"] == [array]  # xarray decodes such an array when it opens the group
    most = MAX_INDEX if indexed else math.inf if size else MAX_TEXTS
    if meta["fill_value"] not in ((0, "NaN") if size else ("",)) or math.prod(shape) > most:
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
