"""The compare stage: compute the distances between all VDNAs of a spec. Only new pairs are computed.

The result is one matrix per spec, with `emd`, `nfd` and `fd` over (dataset, other, layer), and `emd_overall`,
`nfd_overall` and `fd_overall` over (dataset, other). The numbers are those of `distributions.emd(v, w)`, `nfd` and
`fd`.

Much work is done tile by tile (`pipeline.matrix.tiles`). Finished tiles are stored until the matrix is, so an
interrupted run continues with the missing tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from distributions import Spec
from distributions.spec import DECIDING
from pipeline.catalogue.sketches import sketches
from pipeline.catalogue.stored import StoredVDNA
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import contents, now
from pipeline.matrix.assembling import empty, fill, reuse
from pipeline.matrix.tiles import Tile, Tiler, tiles
from pipeline.stages.context import RunContext

log = logging.getLogger(__name__)

COUNTS = {"histogram": "histogram", "gaussian": "count", "layer-gaussian": "layer_count"}
"""The array with the number of images or values of each neuron's distribution, by kind of distribution."""
STORE_TILES_FROM = 120.0
"""Rough seconds on one core from which tiles are stored, and computed by actors if there are several."""


def run(context: RunContext) -> None:
    """Bring the matrix of this run's spec up to date. Datasets with another spec are left out with a warning.

    Raises `UserError` if no dataset of the spec has been reduced.
    """
    # Another run may add a dataset meanwhile, and the last matrix has to contain all datasets.
    while _compare(context, context.spec()):
        pass


def _compare(context: RunContext, spec: Spec) -> bool:
    """Compute what the matrix lacks. Whether it lacked anything."""
    store = context.store
    of_extractor = [m for m in store.manifests() if m["extractor"] == spec.extractor]
    members = [m for m in of_extractor if m["spec"] == spec.id]
    if not members:
        raise UserError(f"nothing to compare yet for {spec.extractor}: add reduce to stages=[...]")
    included = {m["dataset"] for m in members}
    for name, other in {m["dataset"]: m for m in of_extractor if m["dataset"] not in included}.items():
        log.warning(
            "compare: %s is left out, it was measured otherwise (%s); run it with the same keys to include it",
            name,
            ", ".join(k for k in (*DECIDING, "distributions", "ranges") if other[k] != members[0][k]) or "layers",
        )
    for manifest in [m for m in members if not _is_comparable(store, spec, m)]:
        log.warning("compare: %s is left out: a neuron had no finite activation in any image", manifest["dataset"])
        members.remove(manifest)
    matrix = empty(members, spec)
    digest = contents(members)
    current = store.distances_manifest(spec.extractor, spec.id)
    if not (members and matrix.data_vars) or (current is not None and current["digest"] == digest):
        return False
    try:
        old = store.get_distances(spec.extractor, spec.id)
    except DamagedError as error:
        log.warning("compare: %s, all distances are computed again", error)
        old = None
    new = reuse(matrix, old)
    todo, tiler = tiles(spec, members, new), Tiler(spec, members, _device(context))
    long = sum(tile.seconds for tile in todo) >= STORE_TILES_FROM
    if long or tiler.device.type == "cuda":
        context.end_spares()
    if not long:
        fill(matrix, todo, lambda tile: tiler.distances(tile, store))
    else:
        _compute(context, spec, members, todo, tiler)
        fill(matrix, todo, lambda tile: _stored_or_computed(tiler, tile, store, spec))
    matrix = matrix.assign(sketches(store, spec, members, old))
    facts = {"digest": digest, "datasets": [m["dataset"] for m in members], "created": now()}
    store.put_distances(spec.id, spec.extractor, matrix, facts)
    store.forget_tiles(spec.id, {tile.id for tile in todo})
    log.info("compare: %d dataset(s) of %s", len(members), spec.extractor)
    return True


def _is_comparable(store: CatalogueWriter, spec: Spec, manifest: Mapping[str, Any]) -> bool:
    """Whether every neuron of a dataset had a finite activation in some image."""
    counts_not_finite = spec.has("histogram") or spec.has("activation-ranges")  # Gaussians alone do not count them
    if counts_not_finite and not manifest.get("not_finite"):
        return True
    view = StoredVDNA(store, manifest)
    names = [name for kind, name in COUNTS.items() if spec.has(kind)]
    counts = (view.rows(name, view.part(layer)) for name in names for layer in spec.layers)
    return all(rows.reshape(len(rows), -1).any(axis=1).all() for rows in counts)


def _device(context: RunContext) -> torch.device:
    return torch.device("cuda" if context.settings.pool.device != "cpu" and torch.cuda.is_available() else "cpu")


def _compute(
    context: RunContext, spec: Spec, members: Sequence[dict[str, Any]], todo: list[Tile], tiler: Tiler
) -> None:
    """Compute and store every tile that is not stored yet, on actors if there are several."""
    if tiler.device.type == "cpu" and context.scheduler.resources().actors > 1:
        title = f"comparing {len(members)} datasets"
        context.scheduler.run(spec, todo, title, lambda _: (Tiler, spec, members), cpus=1)
        return
    stored = context.store.partials(spec.id)
    for number, tile in enumerate(todo, start=1):
        if tile.id not in stored:
            tiler.run(tile, context.store)
            log.info("compare: tile %d of %d", number, len(todo))


def _stored_or_computed(tiler: Tiler, tile: Tile, store: CatalogueWriter, spec: Spec) -> Mapping[str, np.ndarray]:
    """The distances of a stored tile. They are computed again if another run has removed the tile meanwhile."""
    stored = store.get_tile(spec.id, tile.id)
    if stored is None:
        return tiler.distances(tile, store)
    return {str(name): variable.to_numpy() for name, variable in stored.data_vars.items()}
