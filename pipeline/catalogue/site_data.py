"""What the site shows of a matrix of distances, as small files that a browser draws without computing much.

    index, objects = files(distances, ("emd", "fd"))
    index["metrics"]["emd"]["overall"]       # {"layout": "site/data/….bin", "values": "site/data/….bin", "low": …, …}

For each metric, over all layers and by layer, there are two files named after their contents, little endian. `layout`
is the datasets' order in a clustering, their places on a map and the nearest others of each; `values` is every pair.
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
"""Nearest others that are listed for each dataset."""
MOST_DATASETS = 3000
"""Of more datasets the pairs are not written: two bytes each, 9 MB here, and more cells than a screen has pixels."""
MOST_LAYERS = 60_000
"""Datasets times layers up to which layers have files of their own: 1000 datasets and 60 layers are 65 MB a metric."""
SQUARED = {"nfd", "fd"}
"""Distances in squared units: their roots are what lies along a line on a map."""
FEW = 500
"""Datasets up to which the best is worth its time: all eigenvectors, and the best order of a clustering's leaves."""
CODES = 65534
"""Steps of the logarithmic scale from the smallest to the largest distance; at a ratio of 1e12 one is 0.04 %."""


def files(distances: xr.Dataset, metrics: Sequence[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What a site's data say of a matrix, and the objects it names, by path."""
    objects: dict[str, bytes] = {}
    found: dict[str, Any] = {}
    layers = [str(layer) for layer in distances["layer"].to_numpy()]
    every = distances.sizes["dataset"] * len(layers) <= MOST_LAYERS
    for metric in metrics:
        overall = distances[f"{metric}_overall"].to_numpy()
        table = distances[metric].to_numpy() if every else np.empty((*overall.shape, 0))
        found[metric] = {
            "overall": _files(overall, metric, objects),
            "layers": {
                layer: _files(table[..., i], metric, objects) for i, layer in enumerate(layers[: table.shape[2]])
            },
        }
    return {"metrics": found}, objects


def _files(matrix: np.ndarray, metric: str, objects: dict[str, bytes]) -> dict[str, Any]:
    """Write a matrix's files into `objects`; what is said of them."""
    pairs = scipy.spatial.distance.squareform(matrix, checks=False)
    positive = pairs[pairs > 0]
    low, high = (float(positive.min()), float(positive.max())) if positive.size else (0.0, 0.0)
    values = None
    if len(matrix) <= MOST_DATASETS:
        values = _add(objects, codes(pairs, low, high).astype("<u2").tobytes())
    indices, near = nearest(matrix)
    straight = np.sqrt(matrix) if metric in SQUARED else matrix
    parts = {"<u4": [order(pairs, len(matrix)), indices], "<f4": [places(straight), near]}
    (leaves, others), (spots, far) = ([part.astype(kind).tobytes() for part in its] for kind, its in parts.items())
    layout = _add(objects, leaves + spots + others + far)
    return {"layout": layout, "values": values, "low": low, "high": high}


def _add(objects: dict[str, bytes], data: bytes) -> str:
    path = f"site/data/{hashlib.sha256(data).hexdigest()[:16]}.bin"
    objects[path] = data
    return path


def codes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Distances on a logarithmic scale of 65535 steps: 0 is 0, 1 is `low`, 65535 is `high`."""
    found = np.zeros(values.shape, np.uint16)
    positive = values > 0
    if high > low:
        steps = CODES * np.log(values[positive] / low) / np.log(high / low)
        found[positive] = 1 + np.rint(steps.clip(0, CODES)).astype(np.uint16)
    else:
        found[positive] = 1
    return found


def order(pairs: np.ndarray, size: int) -> np.ndarray:
    """Leaves of an average-linkage clustering, ordered so that neighbours are alike; `pairs` is the upper triangle."""
    if size < 3:
        return np.arange(size)
    tree = scipy.cluster.hierarchy.linkage(pairs, "average", optimal_ordering=size <= FEW)
    return np.asarray(scipy.cluster.hierarchy.leaves_list(tree))


def places(matrix: np.ndarray) -> np.ndarray:
    """A map, (datasets, 2), by classical scaling (Torgerson 1952): around the origin, the farthest coordinate is 1."""
    size = len(matrix)
    found = np.zeros((size, 2))
    squares = matrix**2
    rows = squares.mean(axis=1)
    products = -0.5 * (squares - rows[:, None] - rows[None, :] + rows.mean())
    if not products.any():
        return found
    if size <= FEW:
        values, vectors = np.linalg.eigh(products)
    else:  # two of a thousand eigenvectors; a start that is always the same, so that the map is
        start = np.random.default_rng(0).standard_normal(size)
        values, vectors = scipy.sparse.linalg.eigsh(products, k=2, which="LA", v0=start, tol=1e-6)
    for axis, which in enumerate(np.argsort(values)[::-1][:2]):
        vector = vectors[:, which] * np.sqrt(max(values[which], 0.0))
        found[:, axis] = vector * (np.sign(vector[np.abs(vector).argmax()]) or 1.0)
    largest = np.abs(found).max(initial=0.0)
    return found / largest if largest > 0 else found


def nearest(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others of each dataset and how far they are, (datasets, at most `NEAR`), ascending."""
    size = len(matrix)
    others = matrix.copy()
    np.fill_diagonal(others, np.inf)
    indices = np.argsort(others, axis=1, kind="stable")[:, : min(NEAR, size - 1)]
    return indices, np.take_along_axis(others, indices, axis=1)
