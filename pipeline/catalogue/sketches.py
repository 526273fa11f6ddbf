"""Sketches of a matrix's datasets, stored beside it: what bounds their distance from anything new, in few bytes.

    matrix.assign(sketches(store, spec, members, old))       # arrays (dataset, neuron, …)

`histogram_sketch` is uint16 (dataset, neuron, cell), the means and deviations are float32 (dataset, neuron): of a ViT-B
40 kB for EMD and 80 kB for each of the others, where the VDNA has megabytes.
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
"""By distance: the two kinds of Gaussian may be of other samples, and leave out other images."""
DIMS = {HISTOGRAM: ("dataset", "neuron", "cell")} | {
    name: ("dataset", "neuron") for m in MOMENTS.values() for name in m
}
AT_ONCE = 2
"""VDNAs that are read side by side: each is in memory whole."""


def sketches(
    store: Manifests, spec: Spec, members: Sequence[Mapping[str, Any]], old: xr.Dataset | None
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The sketches of all members, by their names on disk; those that the matrix before has are taken over."""
    before: dict[str, dict[str, np.ndarray]] = {}
    if old is not None:
        known = {name: old[name].to_numpy() for name in DIMS if name in old}
        for place, digest in enumerate(old["digest"].to_numpy() if known else ()):
            before[str(digest)] = {name: values[place] for name, values in known.items()}

    names = metrics_of(spec.distributions)
    wanted = {HISTOGRAM} if "emd" in names else set()
    wanted |= {name for metric in names if metric in MOMENTS for name in MOMENTS[metric]}

    def of(member: Mapping[str, Any]) -> dict[str, np.ndarray]:
        known = before.get(str(member["digest"]), {})
        return known if known.keys() == wanted else _sketch(StoredVDNA(store, member), spec)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = list(threads.map(of, members))
    return {name: (DIMS[name], np.stack([its[name] for its in found])) for name in (found[0] if found else ())}


def _sketch(view: StoredVDNA, spec: Spec) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if spec.has("histogram"):
        view.fetch("histogram")
        found[HISTOGRAM] = np.concatenate([emd_sketch(cdf(view.histogram(layer))) for layer in spec.layers])
    for metric in metrics_of(spec.distributions):
        if metric in MOMENTS:
            found |= zip(MOMENTS[metric], moments(view, metric, list(spec.layers)), strict=True)
    return found


def moments(view: View, metric: str, layers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each neuron of some layers, (neurons) float32, as that distance takes them."""
    its = [view.gaussian(layer) if metric == "nfd" else marginals(view.layer_gaussian(layer)) for layer in layers]
    mean, variance = (np.concatenate(parts) for parts in zip(*its, strict=True))
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
