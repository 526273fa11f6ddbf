"""Compare: the distances between all VDNAs of an extractor, of which only new pairs are computed.

The result is one dataset per extractor with `emd`, `nfd` and `fd` over (dataset, other, layer) and
`emd_overall`, … over (dataset, other): what `distributions.emd(v, w)` and the others give.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from distributions import VDNA, Gaussian, Histogram, LayerGaussian, Spec
from distributions.distances import UNITS, Factor, cdf, emd_rows, frechet, frechet_rows
from pipeline.config import Settings
from pipeline.store import Store

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Bring the matrix of the extractor up to date; datasets measured otherwise are left out and named."""
    store = settings.store
    reference = store.manifest(settings.dataset.name, settings.extractor.name)
    if reference is None:
        log.warning("compare: %s has no VDNA yet, add reduce to stages=[...]", settings.dataset.name)
        return
    everyone = [m for m in store.manifests() if m["extractor"] == reference["extractor"]]
    members = [m for m in everyone if comparable(m, reference)]
    for other in everyone:
        if other not in members:
            log.warning(
                "compare: %s is left out, it was measured otherwise (%s); run it again to include it",
                other["dataset"],
                ", ".join(k for k in ("network", "distributions", "ranges") if other[k] != reference[k]),
            )
    digest = hashlib.sha256(json.dumps([(m["dataset"], m["digest"]) for m in members]).encode()).hexdigest()
    known = store.distances_manifest(reference["extractor"])
    if known is not None and known["digest"] == digest:
        return
    matrix = _empty(members, reference)
    _reuse(matrix, store.get_distances(reference["extractor"]))
    _fill(matrix, members, store)
    store.put_distances(reference["extractor"], matrix, {"digest": digest, "datasets": [m["dataset"] for m in members]})
    log.info("compare: %d datasets of %s", len(members), reference["extractor"])


def comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two manifests are of VDNAs that measure the same: network, distributions and ranges."""
    return all(a[key] == b[key] for key in ("network", "distributions", "ranges"))


def _empty(members: list[dict[str, Any]], reference: Mapping[str, Any]) -> xr.Dataset:
    names, layers = [m["dataset"] for m in members], list(reference["layers"])
    kinds = {"emd": "histogram", "nfd": "gaussian", "fd": "layer-gaussian"}
    wanted = {
        metric: unit
        for metric, unit in UNITS.items()
        if any(kinds[metric] in name for name in reference["distributions"])
    }
    shape = (len(names), len(names), len(layers))
    variables: dict[str, Any] = {}
    for metric, unit in wanted.items():
        variables[metric] = (("dataset", "other", "layer"), np.full(shape, np.nan), {"units": unit})
        variables[f"{metric}_overall"] = (("dataset", "other"), np.full(shape[:2], np.nan), {"units": unit})
    coordinates = {
        "dataset": ("dataset", np.array(names, dtype=object)),
        "other": ("other", np.array(names, dtype=object)),
        "layer": ("layer", np.array(layers, dtype=object)),
        "neurons": ("layer", np.array(list(reference["layers"].values()))),
        "digest": ("dataset", np.array([m["digest"] for m in members], dtype=object)),
    }
    return xr.Dataset(variables, coordinates, {"extractor": reference["extractor"], "spec": reference["spec"]})


def _reuse(matrix: xr.Dataset, old: xr.Dataset | None) -> None:
    """Copy the distances of pairs whose VDNAs are both still the same."""
    if old is None or old.attrs["spec"] != matrix.attrs["spec"]:
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
