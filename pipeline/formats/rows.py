"""Reading parts of a stored Zarr group's arrays, with a check of each object that is read.

    rows = store.get_rows(manifest)
    names = rows.objects("histogram", slice(0, 768))     # the chunks that hold these rows
    rows.read("histogram", slice(0, 768), {name: rows.fetch(name) for name in names})    # (768, bins) uint64
    matrix.read("emd", (slice(3, 4), slice(0, 90)), …)   # a region, by the first dimensions

A manifest has the SHA-256 of every object of its group. So a reader can check one chunk without reading the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.errors import DamagedError, damage
from pipeline.formats.chunks import chunk_sizes, decode, grid, unpacked_size
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
            parts, _ = self._checked(array, region)
            return self._stored(array, parts)

    def read(self, array: str, region: Region, fetched: Mapping[str, bytes]) -> np.ndarray:
        """A region of an array. `fetched` holds the bytes of each chunk that `objects` names for the region."""
        with damage(f"{self._path} is damaged: its array {array}"):
            parts, chunk_bytes = self._checked(array, region)
            chunks = {name: fetched[name] for name in self._stored(array, parts)}
            for name, chunk in chunks.items():
                if unpacked_size(chunk) != chunk_bytes:
                    raise DamagedError(f"{self._path} is damaged: {name} unpacks to another size than its array's")
            return decode(array, self._arrays[array], chunks, parts)

    def _stored(self, array: str, parts: list[slice]) -> list[str]:
        return [name for name, _ in grid(array, self._arrays[array], parts) if name in self._expected]

    def _checked(self, array: str, region: Region) -> tuple[list[slice], int]:
        """The region as a slice for every dimension, and the bytes of an unpacked chunk."""
        array_bytes, chunk_bytes = chunk_sizes(array, self._arrays[array])
        if not array_bytes:
            raise DamagedError(f"{self._path} is damaged: its array {array} is empty")
        shape = self._arrays[array]["shape"]
        first = region if isinstance(region, tuple) else (region,)
        parts = [*first, *(slice(0, size) for size in shape[len(first) :])]
        if len(parts) != len(shape) or not all(0 <= p.start < p.stop <= n for p, n in zip(parts, shape, strict=True)):
            words = ", ".join(f"{part.start} to {part.stop}" for part in first)
            raise DamagedError(f"{self._path} is damaged: its array {array} has no rows {words}")
        return parts, chunk_bytes
