"""Chunks of Zarr arrays, encoded and decoded with numcodecs as zarr-python does.

objects = encode("mean", meta, values)             # {"mean/c/0": bytes, ...}; chunks of fill values alone are left out
decode("mean", meta, objects)                      # the same values

`meta` is the metadata of the array (its zarr.json). zarr-python takes several milliseconds for each array, most of them
in its event loop. A partial has thirty arrays, most of which are small.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numcodecs.blosc  # type: ignore[import-untyped]
import numcodecs.vlen  # type: ignore[import-untyped]
import numcodecs.zstd  # type: ignore[import-untyped]
import numpy as np
import zarr.buffer

from pipeline.errors import DamagedError

MAX_INDEX = 1 << 20
TEXT_BYTES = 8
ITEM_BYTES = {"uint16": 2, "float16": 2, "float32": 4, "float64": 8, "int64": 8, "uint64": 8, "string": 0}
ARRAY_ATTRIBUTES = {"coordinates", "_FillValue", "units"}


def encode(array: str, meta: Mapping[str, Any], values: np.ndarray) -> dict[str, bytes]:
    """The stored chunks of an array, by the names of their objects.

    Call it outside the main thread: there Blosc uses several threads, which write the blocks of a chunk in any order.
    """
    configured = {codec["name"]: codec["configuration"] for codec in meta["codecs"]}
    fill = np.nan if meta["fill_value"] == "NaN" else meta["fill_value"]
    kind = np.dtype(object) if meta["data_type"] == "string" else np.dtype(meta["data_type"]).newbyteorder("<")
    texts, zstd = numcodecs.vlen.VLenUTF8(), numcodecs.zstd.Zstd(**configured.get("zstd", {}))
    objects = {}
    for name, region in _grid(array, meta):
        part, shape = values[region], [each.stop - each.start for each in region]
        if list(part.shape) != shape:
            part = np.pad(part, [(0, n - m) for n, m in zip(shape, part.shape, strict=True)], constant_values=fill)
        part = np.ascontiguousarray(part, kind)
        if zarr.buffer.cpu.NDBuffer.from_numpy_array(part).all_equal(fill):
            continue
        if "blosc" in configured:
            options = configured["blosc"]
            objects[name] = numcodecs.blosc.compress(
                part,
                options["cname"].encode(),
                options["clevel"],
                numcodecs.blosc.SHUFFLE,
                options["blocksize"],
                kind.itemsize,
            )
        else:
            objects[name] = zstd.encode(texts.encode(part) if meta["data_type"] == "string" else part)
    return objects


def decode(array: str, meta: Mapping[str, Any], objects: Mapping[str, bytes]) -> np.ndarray:
    """The values of an array whose metadata and chunks `chunk_sizes` and `unpacked_size` have accepted."""
    fill = np.nan if meta["fill_value"] == "NaN" else meta["fill_value"]
    texts, zstd, blosc = numcodecs.vlen.VLenUTF8(), numcodecs.zstd.Zstd(), numcodecs.blosc.Blosc()
    result = np.full(meta["shape"], fill, kind_of_array(meta))
    for name, region in _grid(array, meta):
        if name not in objects:
            continue
        if meta["data_type"] == "string":
            values = texts.decode(zstd.decode(objects[name]))
        else:
            values = np.frombuffer(blosc.decode(objects[name]), result.dtype.newbyteorder("<"))
        whole = values.reshape([each.stop - each.start for each in region])
        target = result[region]
        target[...] = whole[tuple(map(slice, target.shape))]
    return result


def kind_of_array(meta: Mapping[str, Any]) -> np.dtype:
    """The type of an array's values in memory."""
    kind: np.dtype = np.dtype(np.dtypes.StringDType() if meta["data_type"] == "string" else meta["data_type"])
    return kind


def _grid(array: str, meta: Mapping[str, Any]) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """The name of each chunk, and its region, which may end beyond the array."""
    shape, chunk = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    for position in itertools.product(*(range(-(-n // size)) for n, size in zip(shape, chunk, strict=True))):
        region = tuple(slice(i * size, (i + 1) * size) for i, size in zip(position, chunk, strict=True))
        yield "/".join([array, "c", *map(str, position)]), region


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
