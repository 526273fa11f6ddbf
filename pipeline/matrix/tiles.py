"""Compute a matrix of distances in tiles. A tile compares two groups of datasets in a few layers.

    for tile in tiles(spec, members, new):               # only pairs with a new dataset
        distances = Tiler(spec, members).distances(tile, store)     # {metric: (layers, rows, columns)}

A tile fits into the memory of an actor, and reads its layers of each VDNA once. Consecutive tiles with the same rows
read the rows once. The distance of a pair depends neither on its tile nor on the actor that computes it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.spatial.distance import cdist

from distributions import IncompatibleError, Spec
from distributions.comparison import metrics_of
from distributions.distances import Factor, cdf, frechet
from distributions.kernels import pairwise_emd
from distributions.kernels.factors import one_thread_each
from distributions.moments import LayerMoments, layer_moments, neuron_moments
from distributions.spec import ARRAYS, bins_of, layer_slices
from pipeline.catalogue.writer import TILE, CatalogueWriter
from pipeline.extraction.worker import TaskResult
from pipeline.formats.groups import CHUNK_BYTES
from pipeline.formats.rows import Rows
from pipeline.storage.folder import AT_ONCE

MEMORY = 2 << 30
"""Bytes that a tile may take while it is computed: its rows, its columns, and the stored chunks of its columns."""
READ_SECONDS, EMD_SECONDS, FD_SECONDS = 1.5e-9, 5e-11, 1e-10
"""Rough cost on one core: of reading a byte; of EMD per pair, neuron and bin; of FD per pair and neurons³ of a
layer."""


@dataclass(frozen=True)
class Tile:
    """The datasets `rows` against the datasets `columns` (indices of members) in consecutive `layers`.

    `id` is a hash of the contents of the VDNAs: the stored tile is found again after other datasets have been added.
    `seconds` is a rough cost on one core. `diagonal`: the rows are the columns.
    """

    index: int
    layers: tuple[str, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    id: str
    seconds: float
    size: int = 0

    @property
    def diagonal(self) -> bool:
        return self.rows == self.columns


def tiles(spec: Spec, members: Sequence[Mapping[str, Any]], new: Sequence[int]) -> list[Tile]:
    """Tiles with every pair of a new member and any member, each pair once. `new` are the indices of new members."""
    old = sorted(set(range(len(members))) - set(new))
    result: list[Tile] = []
    for layers in _bands(spec):
        limit = max(MEMORY // (3 * _bytes(spec, layers)), 1)
        new_groups, old_groups = (
            [tuple(places[i : i + limit]) for i in range(0, len(places), limit)] for places in (sorted(new), old)
        )
        reading, comparing = READ_SECONDS * _bytes(spec, layers), _seconds(spec, layers)
        for number, rows in enumerate(new_groups):
            for columns in (*new_groups[number:], *old_groups):
                digests = [[members[i]["digest"] for i in side] for side in (rows, columns)]
                content = json.dumps([spec.id, layers, *digests]).encode()
                name = f"{TILE}{hashlib.sha256(content).hexdigest()[:16]}"
                pairs = len(rows) * (len(rows) - 1) // 2 if rows == columns else len(rows) * len(columns)
                cost = pairs * comparing + len(columns) * reading  # the rows are usually in memory already
                result.append(Tile(len(result), layers, rows, columns, name, cost))
    return result


class Tiler:
    """Computes tiles, in this process or as the worker of an actor. Keeps the last tile's rows for the next tile.

    `members` are the manifests of all datasets of the matrix.
    """

    def __init__(self, spec: Spec, members: Sequence[Mapping[str, Any]], device: torch.device | str = "cpu") -> None:
        self._spec, self._members, self.device = spec, members, torch.device(device)
        self._lock = threading.Lock()
        self._memory = {side: np.empty(0) for side in ("rows", "columns")}  # reused: allocating costs more than filling
        self._readers: dict[int, Rows] = {}
        self._last: tuple[tuple[str, ...], tuple[int, ...], _Side] | None = None

    def run(self, tile: Tile, store: CatalogueWriter) -> TaskResult:
        """Compute a tile and store it."""
        values = {metric: (("layer", "row", "column"), v) for metric, v in self.distances(tile, store).items()}
        store.put_tile(self._spec.id, tile.id, xr.Dataset(values))
        return TaskResult(counted=0, skipped={}, damaged=0, lost_bytes=0)

    def progress(self) -> tuple[int, int]:
        return 0, 0

    def distances(self, tile: Tile, store: CatalogueWriter) -> dict[str, np.ndarray]:
        """Distances of a tile, `{metric: (layers, rows, columns)}` float64.

        Computes one tile at a time, because each may take all of `MEMORY`. `IncompatibleError` names a dataset that
        cannot be compared.
        """
        with self._lock:
            return self._distances(tile, store)

    def _distances(self, tile: Tile, store: CatalogueWriter) -> dict[str, np.ndarray]:
        if self._last is None or self._last[:2] != (tile.layers, tile.rows):
            self._last = None  # freed first, or the rows of both tiles would be in memory
            self._last = tile.layers, tile.rows, self._side("rows", tile.layers, tile.rows, store)
        rows = self._last[2]
        columns = rows if tile.diagonal else self._side("columns", tile.layers, tile.columns, store)
        result = {
            metric: np.zeros((len(tile.layers), len(tile.rows), len(tile.columns)))
            for metric in metrics_of(self._spec.distributions)
        }
        for i, layer in enumerate(tile.layers):
            neurons = self._spec.layers[layer]
            if "emd" in result:
                other = None if tile.diagonal else columns.shares[layer]
                result["emd"][i] = pairwise_emd(rows.shares[layer], other) / neurons
            if "nfd" in result:
                result["nfd"][i] = cdist(rows.moments[layer], columns.moments[layer], "sqeuclidean") / neurons
            if "fd" in result:
                result["fd"][i] = _all_frechet(rows.factors[layer], columns.factors[layer], tile.diagonal)
        return result

    def _side(self, side: str, layers: Sequence[str], members: Sequence[int], store: CatalogueWriter) -> _Side:
        """One side of a tile: some layers of some VDNAs, fetched in parallel and prepared with one core for each VDNA.

        Overwrites the memory of the same side of the last tile.
        """
        whole = layer_slices(self._spec.layers)
        part = slice(whole[layers[0]].start, whole[layers[-1]].stop)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            read = partial(self._fetch, part=part, store=store)
            fetched = list(threads.map(read, members))
        result = _Side(self._spec, layers, len(members), self.device, self._memory[side])
        self._memory[side] = result.memory

        def fill(place: int) -> None:
            objects, fetched[place] = fetched[place], {}  # freed as soon as they are unpacked
            rows = self._readers[members[place]]
            arrays = {name: rows.read(name, part, objects) for name in _arrays(self._spec)}
            try:
                result.fill(place, arrays)
            except IncompatibleError as error:
                raise IncompatibleError(f"dataset {self._members[members[place]]['dataset']}: {error}") from error

        one_thread_each(fill, range(len(members)))
        return result

    def _fetch(self, member: int, part: slice, store: CatalogueWriter) -> dict[str, bytes]:
        if member not in self._readers:
            self._readers[member] = store.get_rows(self._members[member])
        rows = self._readers[member]
        return {name: rows.fetch(name) for array in _arrays(self._spec) for name in rows.objects(array, part)}


class _Side:
    """Some layers of some datasets, prepared for the distances of pairs.

    By layer: `shares` are the cumulative histograms (datasets, neurons, bins), `moments` the means and then the
    standard deviations (datasets, 2 * neurons), `factors` the factor of each dataset. `memory` holds the shares.
    """

    def __init__(
        self, spec: Spec, layers: Sequence[str], datasets: int, device: torch.device | str, memory: np.ndarray
    ) -> None:
        self._layers = {layer: spec.layers[layer] for layer in layers}
        self._spec, self._device = spec, device
        bins, kinds = _bins(spec), metrics_of(spec.distributions)
        size = datasets * bins * sum(self._layers.values()) if "emd" in kinds else 0
        self.memory = memory if memory.size >= size else np.empty(size)
        self._shares = {
            layer: self.memory[part.start * datasets * bins : part.stop * datasets * bins].reshape(datasets, -1, bins)
            for layer, part in layer_slices(self._layers).items()
            if "emd" in kinds
        }
        self.moments = {layer: np.empty((datasets, 2 * n)) for layer, n in self._layers.items() if "nfd" in kinds}
        self.factors: dict[str, dict[int, Factor]] = {layer: {} for layer in layers if "fd" in kinds}

    @cached_property
    def shares(self) -> dict[str, torch.Tensor]:
        return {layer: torch.from_numpy(shares).to(self._device) for layer, shares in self._shares.items()}

    def fill(self, place: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Prepare the dataset at `place` from its stored arrays."""
        parts = layer_slices(self._layers)
        for layer, shares in self._shares.items():
            cdf(arrays["histogram"][parts[layer]], shares[place])
        neurons = None
        if "gaussian" in self._spec.distributions:
            neurons = neuron_moments(*(arrays[name] for name in ARRAYS["gaussian"]))
        for layer, part in parts.items():
            covariance: LayerMoments | None = None
            if self.factors:
                covariance = layer_moments(*(arrays[name][part] for name in ARRAYS["layer-gaussian"]))
                self.factors[layer][place] = Factor.of(covariance, self._device)
            if neurons:
                mean, variance = neurons.mean[part], neurons.variance[part]
            elif covariance:
                mean, variance = covariance.mean, np.diagonal(covariance.covariance)
            else:
                continue
            self.moments[layer][place] = np.concatenate([mean, np.sqrt(variance)])


def _all_frechet(rows: Mapping[int, Factor], columns: Mapping[int, Factor], diagonal: bool) -> np.ndarray:
    """FD between all rows and columns, with a thread for each pair."""
    result = np.zeros((len(rows), len(columns)))
    pairs = [(i, j) for i in range(len(rows)) for j in range(i + 1 if diagonal else 0, len(columns))]
    values = one_thread_each(frechet, (rows[i] for i, _ in pairs), (columns[j] for _, j in pairs))
    for (i, j), value in zip(pairs, values, strict=True):
        result[i, j] = value
    return result + result.T if diagonal else result


def _bands(spec: Spec) -> Iterator[tuple[str, ...]]:
    """Consecutive layers that are read together: one wide layer, or several narrow layers that share chunks."""
    band: list[str] = []
    for layer in spec.layers:
        band.append(layer)
        if _bytes(spec, band) >= 2 * CHUNK_BYTES:
            yield tuple(band)
            band = []
    if band:
        yield tuple(band)


def _bytes(spec: Spec, layers: Sequence[str]) -> int:
    """Rough size in memory of some layers of a dataset, in bytes."""
    widths, wide = [spec.layers[layer] for layer in layers], "fd" in metrics_of(spec.distributions)
    return sum(8 * n * (_bins(spec) + 2 + (n if wide else 0)) for n in widths)


def _seconds(spec: Spec, layers: Sequence[str]) -> float:
    """Rough time of a pair of datasets in some layers on one core."""
    widths, wide = [spec.layers[layer] for layer in layers], "fd" in metrics_of(spec.distributions)
    return sum(EMD_SECONDS * n * _bins(spec) + (FD_SECONDS * n**3 if wide else 0) for n in widths)


def _bins(spec: Spec) -> int:
    return sum(bins_of(name) or 0 for name in spec.distributions)


def _arrays(spec: Spec) -> list[str]:
    """Arrays of a VDNA from which distances are computed."""
    names = ["histogram"] if _bins(spec) else []
    names += ARRAYS["gaussian"] if "gaussian" in spec.distributions else []
    names += ARRAYS["layer-gaussian"] if "layer-gaussian" in spec.distributions else []
    return names
