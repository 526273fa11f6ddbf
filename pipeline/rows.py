"""Rows of a stored VDNA's arrays, without reading the rest; what is read is checked.

    rows = store.get_rows(manifest)
    names = rows.objects("histogram", slice(0, 768))     # those that hold them
    rows.read("histogram", slice(0, 768), {name: rows.fetch(name) for name in names})    # (768, bins) uint64

A manifest has the SHA-256 of every object of its VDNA's group, so a reader of one chunk need not read them all to
know that it is what was written.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np

from pipeline.errors import DamagedError
from pipeline.groups import MAX_METADATA, chunk_sizes, damage, unpacked_size


def hashes(objects: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each object of a group."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in objects.items()}


class Rows:
    """Reads rows of arrays of numbers. `get` gives an object of the group by its name, or None; `expected` are their
    SHA-256 by name. `DamagedError` names the group, and what in it is not as it was written."""

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
        """An object, as it was written."""
        data = self._get(name)
        if data is None or hashlib.sha256(data).hexdigest() != self._expected.get(name):
            raise DamagedError(f"{self._path} is damaged: its object {name} is not what was written")
        return data

    def objects(self, array: str, rows: slice) -> list[str]:
        """Names of the chunks that hold these rows; one that was never written is of fill values."""
        with damage(f"{self._path} is damaged: its array {array}"):
            names = [name for _, name in self._chunks(array, rows)]
        return [name for name in names if name in self._expected]

    def read(self, array: str, rows: slice, fetched: Mapping[str, bytes]) -> np.ndarray:
        """Rows of an array from the chunks that hold them, which were fetched."""
        with damage(f"{self._path} is damaged: its array {array}"):
            meta = self._arrays[array]
            shape, chunk = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
            _, chunk_bytes = chunk_sizes(array, meta)
            kind, blosc = np.dtype(meta["data_type"]).newbyteorder("<"), numcodecs.blosc.Blosc()
            result = np.empty((rows.stop - rows.start, *shape[1:]), kind)
            for start, name in self._chunks(array, rows):
                first, last = max(rows.start, start), min(rows.stop, start + chunk[0])
                part = result[first - rows.start : last - rows.start]
                if name not in self._expected:
                    part[:] = meta["fill_value"]
                    continue
                data = fetched[name]
                if unpacked_size(data) != chunk_bytes:
                    raise DamagedError(f"{self._path} is damaged: {name} unpacks to another size than its array's")
                if last - first == chunk[0]:
                    blosc.decode(data, part)  # in place: memory that is new costs more than decoding
                else:
                    part[:] = np.frombuffer(blosc.decode(data), kind).reshape(chunk)[first - start : last - start]
        return result.astype(kind.newbyteorder("="), copy=False)

    def _chunks(self, array: str, rows: slice) -> list[tuple[int, str]]:
        """First row and name of each chunk of these rows."""
        meta = self._arrays[array]
        shape, chunk = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
        sizes, _ = chunk_sizes(array, meta)
        if chunk[1:] != shape[1:] or not (sizes and 0 <= rows.start < rows.stop <= shape[0]):
            raise DamagedError(f"{self._path} is damaged: its array {array} has no rows {rows.start} to {rows.stop}")
        numbers = range(rows.start // chunk[0], math.ceil(rows.stop / chunk[0]))
        return [(n * chunk[0], "/".join([array, "c", str(n), *["0"] * (len(shape) - 1)])) for n in numbers]
