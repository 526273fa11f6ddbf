"""Compute sketches of datasets. A sketch gives a lower bound of the distance from any VDNA, in few bytes.

    matrix.assign(sketches(store, spec, members, old))       # arrays (dataset, neuron, …)

Sketches are stored beside the matrix. `histogram_sketch` is uint16 (dataset, neuron, cell), means and deviations are
float32 (dataset, neuron). The sketch of a ViT-B dataset takes 40 kB for EMD and 80 kB for each other distance. Its VDNA
takes megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr

from distributions import Spec, View
from distributions.bounds import emd_sketch
from distributions.comparison import metrics_of
from distributions.distances import cdf, marginals
from pipeline.catalogue.stored import StoredVDNA
from pipeline.formats.manifests import Manifests

HISTOGRAM = "histogram_sketch"
MOMENTS = {"nfd": ("mean_sketch", "deviation_sketch"), "fd": ("layer_mean_sketch", "layer_deviation_sketch")}
"""Arrays by distance. NFD and FD have separate arrays: their Gaussians may count different samples and images."""
DIMS = {HISTOGRAM: ("dataset", "neuron", "cell")} | {
    name: ("dataset", "neuron") for m in MOMENTS.values() for name in m
}
AT_ONCE = 2
"""Number of VDNAs read at the same time. Each is held in memory as a whole."""


def sketches(
    store: Manifests, spec: Spec, members: Sequence[Mapping[str, Any]], old: xr.Dataset | None
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The sketches of all members, as `{array: (dimensions, values)}`. Sketches in the `old` matrix are reused."""
    reusable: dict[str, dict[str, np.ndarray]] = {}
    if old is not None:
        arrays = {name: old[name].to_numpy() for name in DIMS if name in old}
        for place, digest in enumerate(old["digest"].to_numpy() if arrays else ()):
            reusable[str(digest)] = {name: values[place] for name, values in arrays.items()}

    names = metrics_of(spec.distributions)
    wanted = {HISTOGRAM} if "emd" in names else set()
    wanted |= {name for metric in names if metric in MOMENTS for name in MOMENTS[metric]}

    def sketch(member: Mapping[str, Any]) -> dict[str, np.ndarray]:
        old_sketch = reusable.get(str(member["digest"]), {})
        return old_sketch if old_sketch.keys() == wanted else _sketch(StoredVDNA(store, member), spec)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        each = list(threads.map(sketch, members))
    return {name: (DIMS[name], np.stack([arrays[name] for arrays in each])) for name in (each[0] if each else ())}


def _sketch(view: StoredVDNA, spec: Spec) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    if spec.has("histogram"):
        view.fetch("histogram")
        arrays[HISTOGRAM] = np.concatenate([emd_sketch(cdf(view.histogram(layer))) for layer in spec.layers])
    for metric in metrics_of(spec.distributions):
        if metric in MOMENTS:
            arrays |= zip(MOMENTS[metric], moments(view, metric, list(spec.layers)), strict=True)
    return arrays


def moments(view: View, metric: str, layers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each neuron of some layers, (neurons) float32, as the distance uses them."""
    gaussians = [view.gaussian(layer) if metric == "nfd" else marginals(view.layer_gaussian(layer)) for layer in layers]
    mean, variance = (np.concatenate(parts) for parts in zip(*gaussians, strict=True))
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
