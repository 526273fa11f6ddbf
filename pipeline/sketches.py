"""Sketches of a matrix's datasets, stored beside it: what bounds their distance from anything new, in few bytes.

    matrix.assign(sketches(store, spec, members, old))       # arrays (dataset, neuron, …)

`histogram_sketch` is uint16 (dataset, neuron, cell), `mean_sketch` and `deviation_sketch` float32 (dataset, neuron): of
a ViT-B 40 kB for EMD and 80 kB for the others, where the VDNA has megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr

from distributions import Spec
from distributions.bounds import emd_sketch
from distributions.distances import cdf
from pipeline.catalogue.stored import StoredVDNA
from pipeline.manifests import Manifests

HISTOGRAM, MEAN, DEVIATION = "histogram_sketch", "mean_sketch", "deviation_sketch"
DIMS = {HISTOGRAM: ("dataset", "neuron", "cell"), MEAN: ("dataset", "neuron"), DEVIATION: ("dataset", "neuron")}
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

    def of(member: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return before.get(str(member["digest"])) or _sketch(StoredVDNA(store, member), spec)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = list(threads.map(of, members))
    return {name: (DIMS[name], np.stack([its[name] for its in found])) for name in (found[0] if found else ())}


def _sketch(view: StoredVDNA, spec: Spec) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if spec.has("histogram"):
        view.fetch("histogram")
        found[HISTOGRAM] = np.concatenate([emd_sketch(cdf(view.histogram(layer))) for layer in spec.layers])
    if spec.has("gaussian") or spec.has("layer-gaussian"):
        mean, variance = view.gaussian()
        found[MEAN], found[DEVIATION] = mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
    return found
