"""Publish: the site, made from the stores alone.

`site/index.html` is one page that works without a network: the matrix of every extractor and metric, by
layer, ordered so that like datasets stand together. `site/datasets/NAME.html` says where a dataset's
numbers come from and which datasets are nearest, layer by layer.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import jinja2
import numpy as np
import plotly.offline
import scipy.cluster.hierarchy
import scipy.spatial.distance
import xarray as xr

from distributions.distances import UNITS
from pipeline.config import Settings
from pipeline.errors import UserError
from pipeline.store import Store

log = logging.getLogger(__name__)

NEIGHBOURS = 5
OVERALL = "all layers"
CELLS = 4_000_000
"""Numbers an index page may carry; a larger matrix is shown over all layers only."""


def run(settings: Settings) -> None:
    """Write the site, unless the one there was made from the same contents."""
    # Another run may publish meanwhile, and the last to write must have seen everything.
    while _publish(settings.store):
        log.info("publish: %s/site/index.html", settings.catalogue.rstrip("/"))


def _publish(store: Store) -> bool:
    """Make the site from what is there now; whether it was another."""
    manifests = store.manifests()
    if not manifests:
        raise UserError(f"catalogue={store.url}: nothing to publish yet, add reduce to stages=[...]")
    specs = sorted({(m["extractor"], m["spec"]) for m in manifests})
    known = [store.distances_manifest(*pair) for pair in specs]
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "site"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    texts = [templates.loader.get_source(templates, n)[0] for n in templates.list_templates()]  # type: ignore[union-attr]
    made_from = hashlib.sha256(json.dumps([manifests, known, texts]).encode()).hexdigest()
    if (store.get_json("site/made_from.json") or {}).get("digest") == made_from:
        return False
    distances = {spec: found for name, spec in specs if (found := store.get_distances(name, spec)) is not None}
    matrices = {_label(name, spec, specs): _matrix(distances[spec]) for name, spec in specs if spec in distances}
    _write(store, templates, manifests, matrices, distances)
    store.put_json("site/made_from.json", {"digest": made_from})
    return True


def _write(
    store: Store,
    templates: jinja2.Environment,
    manifests: list[dict[str, Any]],
    matrices: dict[str, Any],
    distances: dict[str, xr.Dataset],
) -> None:
    library = plotly.offline.get_plotlyjs()
    store.put("site/plotly.min.js", library.encode())
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for manifest in manifests:
        by_dataset.setdefault(manifest["dataset"], []).append(manifest)
    for dataset, its in by_dataset.items():
        near = {m["spec"]: _neighbours(distances.get(m["spec"]), dataset) for m in its}
        page = templates.get_template("dataset.html.j2").render(dataset=dataset, manifests=its, near=near)
        store.put(f"site/datasets/{dataset}.html", page.encode())
    page = templates.get_template("index.html.j2").render(manifests=manifests, matrices=matrices, plotly=library)
    store.put("site/index.html", page.encode())


def _label(extractor: str, spec: str, specs: list[tuple[str, str]]) -> str:
    """An extractor's name, with its spec where the catalogue has several of that name."""
    return extractor if sum(name == extractor for name, _ in specs) == 1 else f"{extractor} · {spec}"


def _matrix(distances: xr.Dataset) -> dict[str, Any]:
    """A matrix for the page: names in the order of their clustering, and per metric and layer the values."""
    metrics = [metric for metric in UNITS if metric in distances]
    names = [str(name) for name in distances["dataset"].to_numpy()]
    order = _order(distances[f"{metrics[0]}_overall"].to_numpy()) if metrics else range(len(names))
    layers = [str(layer) for layer in distances["layer"].to_numpy()]
    values: dict[str, dict[str, list[list[float]]]] = {}
    for metric in metrics:
        values[metric] = {OVERALL: _rounded(distances[f"{metric}_overall"].to_numpy()[np.ix_(order, order)])}
        if len(names) ** 2 * len(layers) * len(metrics) <= CELLS:
            table = distances[metric].to_numpy()[np.ix_(order, order)]
            values[metric].update({layer: _rounded(table[..., i]) for i, layer in enumerate(layers)})
    return {
        "names": [names[i] for i in order],
        "layers": [OVERALL, *layers],
        "units": {m: distances[m].attrs["units"] for m in metrics},
        "values": values,
    }


def _order(matrix: np.ndarray) -> list[int]:
    """Leaves of an average-linkage clustering, ordered so that neighbours are alike."""
    if len(matrix) < 3:
        return list(range(len(matrix)))
    condensed = scipy.spatial.distance.squareform(matrix, checks=False)
    tree = scipy.cluster.hierarchy.linkage(condensed, "average", optimal_ordering=len(matrix) <= 2000)
    return [int(leaf) for leaf in scipy.cluster.hierarchy.leaves_list(tree)]


def _neighbours(distances: xr.Dataset | None, dataset: str) -> dict[str, Any] | None:
    """The nearest datasets with their distance in every layer."""
    if distances is None or dataset not in distances["dataset"].to_numpy() or distances.sizes["dataset"] < 2:
        return None
    metric = next(m for m in UNITS if m in distances)
    overall = distances[f"{metric}_overall"].sel(dataset=dataset).drop_sel(other=dataset)
    nearest = [str(name) for name in overall.sortby(overall)["other"].to_numpy()[:NEIGHBOURS]]
    rows = distances[metric].sel(dataset=dataset)
    return {
        "metric": metric,
        "unit": distances[metric].attrs["units"],
        "layers": [str(layer) for layer in distances["layer"].to_numpy()],
        "datasets": [
            {"name": n, "overall": float(overall.sel(other=n)), "values": _rounded(rows.sel(other=n).to_numpy())}
            for n in nearest
        ],
    }


def _rounded(values: np.ndarray) -> Any:
    """Five significant digits: enough to read, a third of the bytes."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.5g}") for value in values]
