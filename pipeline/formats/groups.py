"""Labelled datasets as Zarr v3 groups in memory, which xarray can open. Only this module and `chunks` import zarr.

objects = pack(dataset, consolidated=True)                  # {"histogram/c/0/0": bytes, ..., "zarr.json": bytes}
unzip(zipped(objects))                                      # the same dataset
"""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
import zarr.codecs
import zarr.storage
from xarray.core.indexing import ExplicitIndexer, IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

from pipeline.errors import DamagedError, damage
from pipeline.formats.chunks import chunk_sizes, decode, encode, kind_of_array, unpacked_size

CHUNK_BYTES = 4 << 20
TILE_BYTES = 512 << 10
"""Bytes of a chunk of a matrix. Smaller than `CHUNK_BYTES`, because readers of a matrix need a pair or a row."""
MAX_METADATA = 64 << 20
MAX_GROUP = 64 << 30
"""Largest size in bytes of a group's arrays. A VDNA with a million neurons and a thousand bins has 8 GiB."""
MAX_TEXTS = 64 << 20
"""Bytes that a chunk of texts may unpack to, plus a hundred for each stored byte: names compress well."""


def pack(dataset: xr.Dataset, consolidated: bool) -> dict[str, bytes]:
    """The objects of a Zarr v3 group, by name, with the group's own metadata last: those that xarray would write.

    `consolidated` adds the metadata of all arrays to the group's, so that readers need fewer requests.
    """
    structure = tuple(
        (str(name), variable.dims, variable.shape, variable.dtype, json.dumps(variable.attrs), name in dataset.coords)
        for name, variable in dataset.variables.items()
    )
    objects, arrays, group = _metadata(structure, dataset.attrs.get("layers"), consolidated)
    values = {name: np.asarray(dataset.variables[name].to_numpy()) for name in arrays}
    objects = objects | encode({name: (meta, values[name]) for name, meta in arrays.items()})
    objects["zarr.json"] = json.dumps(group | {"attributes": dataset.attrs}, indent=2).encode()
    return {name: objects[name] for name in sorted(objects, key=lambda name: (name == "zarr.json", name))}


@lru_cache(256)
def _metadata(
    structure: tuple[Any, ...], layers: str | None, consolidated: bool
) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """The metadata that xarray writes for a dataset of this structure: the objects of its arrays, the same metadata
    parsed, by the names of the arrays, and those of the group.

    xarray and zarr take a tenth of a second for them. The partials of a run have few structures.
    """
    variables, coordinates, encoding = dict[str, xr.Variable](), dict[str, xr.Variable](), {}
    for name, dims, shape, dtype, attributes, is_coordinate in structure:
        fill: Any = "" if dtype.kind in "OTU" else np.nan if dtype.kind == "f" else 0
        variable = xr.Variable(dims, np.broadcast_to(np.array(fill, dtype), shape), json.loads(attributes))
        (coordinates if is_coordinate else variables)[name] = variable
        if dtype.kind in "uif" and dims:
            compressor = zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
            encoding[name] = {"compressors": [compressor], "chunks": _chunks(layers, variable)}
    dataset, store = xr.Dataset(variables, coordinates), zarr.storage.MemoryStore()
    with warnings.catch_warnings():
        # Without consolidated metadata readers make a request per array. The specification of Zarr v3 still lacks it.
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=UserWarning)
        dataset.to_zarr(store, zarr_format=3, consolidated=consolidated, encoding=encoding, mode="w")
    objects = {name: bytes(data.to_bytes()) for name, data in store._store_dict.items() if name.endswith("zarr.json")}
    group = json.loads(objects.pop("zarr.json"))
    return objects, {name.removesuffix("/zarr.json"): json.loads(data) for name, data in objects.items()}, group


def _chunks(layers: str | None, variable: xr.Variable) -> tuple[int, ...]:
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
    widths = set(json.loads(layers or "{}").values())
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
    with damage("not a Zarr group as this program writes them"):
        arrays = _check(objects)
        group = json.loads(objects["zarr.json"])
        if (group["zarr_format"], group["node_type"]) != (3, "group"):
            raise DamagedError("not a group of Zarr's version 3")
        attributes = {name: dict(meta["attributes"]) for name, meta in arrays.items()}
        named = {word for each in attributes.values() for word in each.pop("coordinates", "").split()}
        variables: dict[bool, dict[str, xr.Variable]] = {True: {}, False: {}}
        for name, meta in arrays.items():
            values = LazilyIndexedArray(_StoredArray(name, meta, objects))
            units = {key: attributes[name][key] for key in attributes[name] if key != "_FillValue"}
            variables[name in named][name] = xr.Variable(meta["dimension_names"], values, units)
        return xr.Dataset(variables[False], variables[True], group["attributes"])


class _StoredArray(xr.backends.BackendArray):
    """An array of a group in memory, decoded when it is indexed."""

    def __init__(self, name: str, meta: Mapping[str, Any], objects: Mapping[str, bytes]) -> None:
        self._name, self._meta, self._objects = name, meta, objects
        self.shape, self.dtype = tuple(meta["shape"]), kind_of_array(meta)

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        def region(within: tuple[Any, ...]) -> np.ndarray:
            with damage(f"its array {self._name} cannot be decoded"):
                return np.asarray(decode(self._name, self._meta, self._objects)[within])

        return explicit_indexing_adapter(key, self.shape, IndexingSupport.BASIC, region)  # type: ignore[no-any-return]


def _check(objects: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The metadata of the arrays. Refuses a group whose arrays are too large, or whose chunks would unpack to more than
    the shapes of the arrays state."""
    total, arrays, chunk_bytes = 0, {}, {}
    for path, content in objects.items():
        array, _, name = path.rpartition("/")
        if name != "zarr.json":
            continue
        if len(content) > MAX_METADATA:
            raise DamagedError(f"{path} has {len(content)} bytes")
        meta = json.loads(content)
        if array:
            arrays[array], (size, chunk_bytes[array]) = meta, chunk_sizes(array, meta)
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
    return arrays
