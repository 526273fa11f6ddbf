"""Assemble a matrix of distances from an old matrix and from tiles.

matrix = empty(members, spec)
new = reuse(matrix, old)                  # copies the pairs that `old` has
fill(matrix, todo, compute)               # enters the distances of every tile in `todo`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from distributions import Spec
from distributions.comparison import metrics_of
from distributions.distances import UNITS
from pipeline.matrix.tiles import Tile


def empty(members: list[dict[str, Any]], spec: Spec) -> xr.Dataset:
    """A matrix of the members in which every distance is NaN."""
    names, layers = [m["dataset"] for m in members], list(spec.layers)
    wanted = {metric: UNITS[metric] for metric in metrics_of(spec.distributions)}
    shape = (len(names), len(names), len(layers))
    variables: dict[str, Any] = {}
    for metric, unit in wanted.items():
        variables[metric] = (("dataset", "other", "layer"), np.full(shape, np.nan), {"units": unit})
        variables[f"{metric}_overall"] = (("dataset", "other"), np.full(shape[:2], np.nan), {"units": unit})
    coordinates = {
        "dataset": ("dataset", np.array(names, dtype=object)),
        "other": ("other", np.array(names, dtype=object)),
        "layer": ("layer", np.array(layers, dtype=object)),
        "neurons": ("layer", np.array(list(spec.layers.values()))),
        "digest": ("dataset", np.array([m["digest"] for m in members], dtype=object)),
    }
    return xr.Dataset(variables, coordinates, {"extractor": spec.extractor, "spec": spec.id})


def reuse(matrix: xr.Dataset, old: xr.Dataset | None) -> list[int]:
    """Copy the distances of pairs that the old matrix has. Returns the indices of the datasets that it does not
    have."""
    digests = [str(digest) for digest in matrix["digest"].to_numpy()]
    if old is None:
        return list(range(len(digests)))
    old_places = {str(digest): i for i, digest in enumerate(old["digest"].to_numpy())}
    pairs = [(i, old_places[digest]) for i, digest in enumerate(digests) if digest in old_places]
    if pairs:
        new, kept = (np.array(index) for index in zip(*pairs, strict=True))
        for name in matrix.data_vars:
            matrix[name].data[np.ix_(new, new)] = old[name].to_numpy()[np.ix_(kept, kept)]
    return [i for i, digest in enumerate(digests) if digest not in old_places]


def fill(matrix: xr.Dataset, todo: Sequence[Tile], compute: Callable[[Tile], Mapping[str, np.ndarray]]) -> None:
    """Enter the distances of every tile into the matrix, and then the distances over all layers."""
    layers = matrix["layer"].to_numpy().tolist()
    neurons = matrix["neurons"].to_numpy()
    for tile in todo:
        rows, columns = np.array(tile.rows), np.array(tile.columns)
        for metric, values in compute(tile).items():
            for layer, between in zip(tile.layers, values, strict=True):
                matrix[metric].data[np.ix_(rows, columns, [layers.index(layer)])] = between[..., None]
                matrix[metric].data[np.ix_(columns, rows, [layers.index(layer)])] = between.T[..., None]
    for metric in UNITS:
        if metric in matrix:
            overall, values = matrix[f"{metric}_overall"].data, matrix[metric].data
            # EMD and NFD are means over neurons, FD over layers.
            mean = values.mean(axis=2) if metric == "fd" else (values * neurons).sum(axis=2) / neurons.sum()
            np.copyto(overall, mean, where=np.isnan(overall))
