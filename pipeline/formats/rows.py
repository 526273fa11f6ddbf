"""Reading parts of a stored Zarr group's arrays, with a check of each object that is read.

    rows = store.get_rows(manifest)
    names = rows.objects("histogram", slice(0, 768))     # the chunks that hold these rows
    rows.read("histogram", slice(0, 768), {name: rows.fetch(name) for name in names})    # (768, bins) uint64
    matrix.read("emd", (slice(3, 4), slice(0, 90)), …)   # a region, by the first dimensions

A manifest has the SHA-256 of every object of its group. So a reader can check one chunk without reading the others.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np

from pipeline.errors import DamagedError, damage
from pipeline.formats.chunks import MAX_CHUNKS, chunk_sizes, unpacked_size
from pipeline.formats.groups import MAX_METADATA

Region = slice | tuple[slice, ...]
"""The part of an array to read: a slice for each of its first dimensions. The other dimensions are read whole."""


def hashes(objects: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each object of a group."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in objects.items()}


class Rows:
    """Reads parts of the numeric arrays of one group.

    `get(name)` returns an object of the group, or None. `expected` maps the objects' names to their SHA-256. `path`
    names the group in messages. All methods raise `DamagedError` if an object is missing or differs from what was
    written.
    """

    def __init__(self, get: Callable[[str], bytes | None], expected: Mapping[str, str], path: str) -> None:
        self._get, self._expected, self._path = get, expected, path
        if not isinstance(expected, Mapping):
            raise DamagedError(f"{path} is damaged: its manifest has no hashes of its objects")
        metadata = self.fetch("zarr.json")
        with damage(f"{path} is damaged: not a Zarr group as this program writes them"):
            if len(metadata) > MAX_METADATA:
                raise DamagedError(f"{path} is damaged: its metadata have {len(metadata)} bytes")
            self._arrays: dict[str, dict[str, Any]] = json.loads(metadata)["consolidated_metadata"]["metadata"]

    def fetch(self, name: str) -> bytes:
        """The bytes of an object, found to have the expected SHA-256."""
        data = self._get(name)
        if data is None or hashlib.sha256(data).hexdigest() != self._expected.get(name):
            raise DamagedError(f"{self._path} is damaged: its object {name} is not what was written")
        return data

    def has(self, array: str) -> bool:
        """Whether the group has an array of this name."""
        return array in self._arrays

    def objects(self, array: str, region: Region) -> list[str]:
        """Names of the stored chunks that hold a region. Chunks of fill values alone are not stored."""
        with damage(f"{self._path} is damaged: its array {array}"):
            names = [name for name, _ in self._chunks(array, region)]
        return [name for name in names if name in self._expected]

    def read(self, array: str, region: Region, fetched: Mapping[str, bytes]) -> np.ndarray:
        """A region of an array. `fetched` holds the bytes of each chunk that `objects` names for the region."""
        with damage(f"{self._path} is damaged: its array {array}"):
            meta = self._arrays[array]
            chunk = meta["chunk_grid"]["configuration"]["chunk_shape"]
            _, chunk_bytes = chunk_sizes(array, meta)
            kind, blosc = np.dtype(meta["data_type"]).newbyteorder("<"), numcodecs.blosc.Blosc()
            parts = self._parts(array, region)
            result = np.empty([part.stop - part.start for part in parts], kind)
            for name, corner in self._chunks(array, region):
                ends = [start + size for start, size in zip(corner, chunk, strict=True)]
                shared = [slice(max(p.start, s), min(p.stop, e)) for p, s, e in zip(parts, corner, ends, strict=True)]
                target = result[_within(shared, [part.start for part in parts])]
                if name not in self._expected:
                    target[...] = meta["fill_value"]
                    continue
                data = fetched[name]
                if unpacked_size(data) != chunk_bytes:
                    raise DamagedError(f"{self._path} is damaged: {name} unpacks to another size than its array's")
                if list(target.shape) == chunk and target.flags.c_contiguous:
                    blosc.decode(data, target)  # in place: allocating new memory costs more than decoding
                else:
                    whole = np.frombuffer(blosc.decode(data), kind).reshape(chunk)
                    target[...] = whole[_within(shared, corner)]
        return result.astype(kind.newbyteorder("="), copy=False)

    def _parts(self, array: str, region: Region) -> list[slice]:
        """The region as a slice for every dimension."""
        shape = self._arrays[array]["shape"]
        first = region if isinstance(region, tuple) else (region,)
        parts = [*first, *(slice(0, size) for size in shape[len(first) :])]
        if len(parts) != len(shape) or not all(0 <= p.start < p.stop <= n for p, n in zip(parts, shape, strict=True)):
            words = ", ".join(f"{part.start} to {part.stop}" for part in first)
            raise DamagedError(f"{self._path} is damaged: its array {array} has no rows {words}")
        return parts

    def _chunks(self, array: str, region: Region) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The name and the first index of each chunk of a region."""
        meta = self._arrays[array]
        chunk = meta["chunk_grid"]["configuration"]["chunk_shape"]
        if not chunk_sizes(array, meta)[0]:
            raise DamagedError(f"{self._path} is damaged: its array {array} is empty")
        numbers = [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(self._parts(array, region), chunk, strict=True)
        ]
        if math.prod(map(len, numbers)) > MAX_CHUNKS:
            raise DamagedError(f"{self._path} is damaged: its array {array} has too many chunks")
        for position in itertools.product(*numbers):
            corner = tuple(number * size for number, size in zip(position, chunk, strict=True))
            yield "/".join([array, "c", *map(str, position)]), corner


def _within(region: Sequence[slice], corner: Sequence[int]) -> tuple[slice, ...]:
    """A region with indices relative to `corner`."""
    return tuple(slice(part.start - c, part.stop - c) for part, c in zip(region, corner, strict=True))
