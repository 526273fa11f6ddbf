"""Compare: the distances between all VDNAs of one spec, of which only new pairs are computed.

The result is one dataset per spec with `emd`, `nfd` and `fd` over (dataset, other, layer) and
`emd_overall`, … over (dataset, other): what `distributions.emd(v, w)` and the others give.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import numpy as np
import xarray as xr

from distributions import VDNA, Gaussian, Histogram, LayerGaussian, Spec
from distributions.distances import UNITS, Factor, cdf, emd_rows, frechet, frechet_rows
from distributions.vdna import DECIDING
from pipeline.config import Settings
from pipeline.errors import UserError
from pipeline.groups import DamagedError
from pipeline.store import Store, now

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Bring the matrix of this run's spec up to date; datasets measured otherwise are left out and named."""
    # Another run may add its dataset meanwhile, and the last to write must have seen them all.
    while _compare(settings.store, settings.spec()):
        pass


def _compare(store: Store, spec: Spec) -> bool:
    """Compute what the matrix lacks; whether it lacked anything."""
    everyone = [m for m in store.manifests() if m["extractor"] == spec.extractor]
    members = [m for m in everyone if m["spec"] == spec.id]
    if not members:
        raise UserError(f"nothing to compare yet for {spec.extractor}: add reduce to stages=[...]")
    included = {m["dataset"] for m in members}
    for name, other in {m["dataset"]: m for m in everyone if m["dataset"] not in included}.items():
        log.warning(
            "compare: %s is left out, it was measured otherwise (%s); run it with the same keys to include it",
            name,
            ", ".join(k for k in (*DECIDING, "distributions", "ranges") if other[k] != members[0][k]) or "layers",
        )
    matrix = _empty(members, spec)
    digest = hashlib.sha256(json.dumps([(m["dataset"], m["digest"]) for m in members]).encode()).hexdigest()
    known = store.distances_manifest(spec.extractor, spec.id)
    if not matrix.data_vars or (known is not None and known["digest"] == digest):
        return False
    try:
        _reuse(matrix, store.get_distances(spec.extractor, spec.id))
    except DamagedError as error:
        log.warning("compare: %s, all distances are computed again", error)
    _fill(matrix, members, store)
    facts = {"digest": digest, "datasets": [m["dataset"] for m in members], "created": now()}
    store.put_distances(spec.id, spec.extractor, matrix, facts)
    log.info("compare: %d dataset(s) of %s", len(members), spec.extractor)
    return True


def _empty(members: list[dict[str, Any]], spec: Spec) -> xr.Dataset:
    names, layers = [m["dataset"] for m in members], list(spec.layers)
    kinds = {"emd": "histogram", "nfd": "gaussian", "fd": "layer-gaussian"}
    wanted = {metric: u for metric, u in UNITS.items() if any(kinds[metric] in name for name in spec.distributions)}
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


def _reuse(matrix: xr.Dataset, old: xr.Dataset | None) -> None:
    """Copy the distances of pairs whose VDNAs are both still the same."""
    if old is None:
        return
    before = {str(digest): i for i, digest in enumerate(old["digest"].to_numpy())}
    digests = [str(digest) for digest in matrix["digest"].to_numpy()]
    pairs = [(i, before[digest]) for i, digest in enumerate(digests) if digest in before]
    if not pairs:
        return
    new, kept = (np.array(index) for index in zip(*pairs, strict=True))
    for name in matrix.data_vars:
        matrix[name].data[np.ix_(new, new)] = old[name].to_numpy()[np.ix_(kept, kept)]


def _fill(matrix: xr.Dataset, members: list[dict[str, Any]], store: Store) -> None:
    """Compute what is still missing, a row at a time; the other VDNAs are read one after another."""
    first = next(iter(matrix.data_vars))
    for i, member in enumerate(members):
        missing = np.flatnonzero(np.isnan(matrix[first].data[i, :, 0]))
        if not len(missing):
            continue
        mine = _Prepared(store.get_vdna(member))
        for j in missing:
            theirs = mine if i == j else _Prepared(store.get_vdna(members[j]))
            for metric, (per_layer, overall) in mine.distances(theirs).items():
                for a, b in ((i, j), (j, i)):
                    matrix[metric].data[a, b] = per_layer
                    matrix[f"{metric}_overall"].data[a, b] = overall


class _Prepared:
    """A VDNA in the form that pairs are computed from: CDFs, marginals, covariance roots, layer by layer."""

    def __init__(self, vdna: VDNA) -> None:
        spec: Spec = vdna.spec
        self.neurons = np.array(list(spec.layers.values()))
        has = vdna.has
        self.cdfs = [cdf(vdna.histogram(layer)) for layer in spec.layers] if has(Histogram) else []
        marginals = has(Gaussian) or has(LayerGaussian)
        self.marginals = [vdna.gaussian(layer) for layer in spec.layers] if marginals else []
        self.factors = [Factor(vdna.layer_gaussian(layer)) for layer in spec.layers] if has(LayerGaussian) else []

    def distances(self, other: _Prepared) -> dict[str, tuple[np.ndarray, float]]:
        """Per metric: its value for each layer and overall."""
        result: dict[str, tuple[np.ndarray, float]] = {}
        rows = {
            "emd": [emd_rows(a, b) for a, b in zip(self.cdfs, other.cdfs, strict=True)],
            "nfd": [frechet_rows(a, b) for a, b in zip(self.marginals, other.marginals, strict=True)],
        }
        for metric, values in rows.items():
            if values:
                overall = float(np.concatenate(values).mean())
                result[metric] = (np.array([v.mean() for v in values]), overall)
        if self.factors:
            layers = np.array([frechet(a, b) for a, b in zip(self.factors, other.factors, strict=True)])
            result["fd"] = (layers, float(layers.mean()))
        return result
