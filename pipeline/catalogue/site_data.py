"""Prepare a matrix of distances for the site, as small files that a browser can draw with little computation.

    index, objects = files(distances, ("emd", "fd"))
    index["metrics"]["emd"]["overall"]       # {"layout": "site/data/….bin", "values": "site/data/….bin", "low": …, …}

Each metric has two files over all layers and two for each layer, little endian and named after their contents. `layout`
has the order of the datasets in a clustering, their places on a map, and the nearest datasets of each. `values` has the
distance of every pair.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.cluster.hierarchy
import scipy.sparse.linalg
import scipy.spatial.distance
import xarray as xr

NEAR = 10
"""Nearest datasets listed for each dataset."""
MAX_DATASETS = 3000
"""With more datasets the pairs are not written: at two bytes each, they take 9 MB, and a screen has fewer pixels."""
MAX_LAYER_ROWS = 60_000
"""Datasets times layers up to which each layer has files: for 1000 datasets and 60 layers they take 65 MB a metric."""
SQUARED = {"nfd", "fd"}
"""Distances in squared units. The map is drawn from their square roots."""
MAX_EXACT = 500
"""Datasets up to which all eigenvectors and the optimal order of the clustering's leaves are computed."""
CODES = 65534
"""Steps of the logarithmic scale from the smallest to the largest distance. At a ratio of 1e12 a step is 0.04 %."""


def files(distances: xr.Dataset, metrics: Sequence[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The entry of a matrix in the site's data, and the files that it names, by path."""
    objects: dict[str, bytes] = {}
    entries: dict[str, Any] = {}
    layers = [str(layer) for layer in distances["layer"].to_numpy()]
    by_layer = distances.sizes["dataset"] * len(layers) <= MAX_LAYER_ROWS
    for metric in metrics:
        overall = distances[f"{metric}_overall"].to_numpy()
        table = distances[metric].to_numpy() if by_layer else np.empty((*overall.shape, 0))
        entries[metric] = {
            "overall": _files(overall, metric, objects),
            "layers": {
                layer: _files(table[..., i], metric, objects) for i, layer in enumerate(layers[: table.shape[2]])
            },
        }
    return {"metrics": entries}, objects


def _files(matrix: np.ndarray, metric: str, objects: dict[str, bytes]) -> dict[str, Any]:
    """Add the files of a matrix to `objects`, and return the entry that names them."""
    pairs = scipy.spatial.distance.squareform(matrix, checks=False)
    positive = pairs[pairs > 0]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (0.0, 0.0)
    values = None
    if len(matrix) <= MAX_DATASETS:
        values = _add(objects, codes(pairs, low, high).astype("<u2").tobytes())
    indices, near = nearest(matrix)
    straight = np.sqrt(matrix) if metric in SQUARED else matrix
    parts = {"<u4": [order(pairs, len(matrix)), indices], "<f4": [places(straight), near]}
    (leaves, near_indices), (coordinates, near_distances) = (
        [part.astype(kind).tobytes() for part in arrays] for kind, arrays in parts.items()
    )
    layout = _add(objects, leaves + coordinates + near_indices + near_distances)
    return {"layout": layout, "values": values, "low": low, "high": high}


def _add(objects: dict[str, bytes], data: bytes) -> str:
    path = f"site/data/{hashlib.sha256(data).hexdigest()[:16]}.bin"
    objects[path] = data
    return path


def codes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Distances as uint16 codes on a logarithmic scale: code 0 is distance 0, 1 is `low`, 65535 is `high`."""
    result = np.zeros(values.shape, np.uint16)
    positive = values > 0
    if high > low:
        steps = CODES * np.log(values[positive] / low) / np.log(high / low)
        result[positive] = 1 + np.rint(steps.clip(0, CODES)).astype(np.uint16)
    else:
        result[positive] = 1
    return result


def order(pairs: np.ndarray, size: int) -> np.ndarray:
    """Leaves of an average-linkage clustering, in an order in which similar datasets are neighbours.

    `pairs` are the distances of the upper triangle, row by row; `size` is the number of datasets.
    """
    if size < 3:
        return np.arange(size)
    tree = scipy.cluster.hierarchy.linkage(pairs, "average", optimal_ordering=size <= MAX_EXACT)
    return np.asarray(scipy.cluster.hierarchy.leaves_list(tree))


def places(matrix: np.ndarray) -> np.ndarray:
    """Places of datasets on a map, (datasets, 2) float64, by classical scaling (Torgerson 1952).

    The map is centred on the origin and scaled so that the largest absolute coordinate is 1.
    """
    size = len(matrix)
    coordinates = np.zeros((size, 2))
    squares = matrix**2
    rows = squares.mean(axis=1)
    products = -0.5 * (squares - rows[:, None] - rows[None, :] + rows.mean())
    if not products.any():
        return coordinates
    if size <= MAX_EXACT:
        values, vectors = np.linalg.eigh(products)
    else:  # two eigenvectors of a thousand; a fixed start vector makes the map reproducible
        start = np.random.default_rng(0).standard_normal(size)
        values, vectors = scipy.sparse.linalg.eigsh(products, k=2, which="LA", v0=start, tol=1e-6)
    for axis, which in enumerate(np.argsort(values)[::-1][:2]):
        vector = vectors[:, which] * np.sqrt(max(values[which], 0.0))
        coordinates[:, axis] = vector * (np.sign(vector[np.abs(vector).argmax()]) or 1.0)
    largest = np.abs(coordinates).max(initial=0.0)
    return coordinates / largest if largest > 0 else coordinates


def nearest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances of the nearest datasets of each dataset, (datasets, at most `NEAR`), nearest first."""
    size = len(matrix)
    others = matrix.copy()
    np.fill_diagonal(others, np.inf)
    indices = np.argsort(others, axis=1, kind="stable")[:, : min(NEAR, size - 1)]
    return indices, np.take_along_axis(others, indices, axis=1)
