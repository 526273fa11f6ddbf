"""Publishing: an index and a site of what is in a catalogue, for its readers.

    publish(store)                            # False where nothing is new

They see it at once when the pointer is written, and what was published before until then.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pipeline import layouts
from pipeline.catalogue import index as published
from pipeline.catalogue.copies import PAGE, SITE, app, walk
from pipeline.errors import DamagedError, UserError
from pipeline.folder import as_json
from pipeline.manifests import Manifests
from pipeline.store import STALE, Store

log = logging.getLogger(__name__)

DRAWN = 1
"""Format of what the site draws."""


def publish(store: Store) -> bool:
    """Write the index and the site of what is there now; whether it was another than what was published."""
    manifests = [store.recorded(manifest) for manifest in store.manifests()]
    if not manifests:
        raise UserError(f"catalogue={store.url}: nothing to publish yet, add reduce to stages=[...]")
    pairs = sorted({(m["extractor"], m["spec"]) for m in manifests})
    known = [matrix for pair in pairs if (matrix := store.recorded_distances(*pair)) is not None]
    index = published.make(manifests, known)
    for matrix in known:
        if matrix["group"] not in {listed["group"].rpartition("/")[2] for listed in index["matrices"]}:
            log.warning(
                "publish: the matrix of %s is not of the present versions and is left out: add compare to stages=[...]",
                matrix["extractor"],
            )
    before = _before(store)
    parts = {"index": _put_new(store, "index", ".json.gz", published.packed(index))}
    parts["site"] = _site(store, index, before)
    page, files = app()
    if before and all(before.get(name) == part for name, part in parts.items()) and store.get(PAGE) == page:
        return False
    store.put_new(f"index/schema-{published.FORMAT}.json", published.schema())
    for path, data in files.items():
        store.put_new(path, data)
    store.put(PAGE, page)
    store.put(published.POINTER, as_json(published.pointer(parts)))
    _sweep(store, before)
    return True


def _before(store: Manifests) -> dict[str, Any] | None:
    try:
        return published.read_pointer(store)
    except DamagedError as error:
        log.warning("publish: %s, it is written anew", error)
        return None


def _put_new(store: Store, folder: str, ending: str, data: bytes) -> dict[str, Any]:
    part = published.named(folder, ending, data)
    if store.get_known(part["path"], part["sha256"]) is None:
        store.put(part["path"], data)
    return part


def _site(store: Store, index: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Write what the site draws matrices from; those that have not changed are taken over."""
    known: dict[str, Any] = {}
    if before and "site" in before:
        try:
            found = published.unpacked(store, before["site"])
            known = {its["group"]: its for its in found["matrices"].values() if found["format"] == DRAWN}
        except DamagedError as error:
            log.warning("publish: %s, it is made anew", error)
    matrices = {}
    for matrix in index["matrices"]:
        drawn = known.get(matrix["group"])
        if drawn is None:
            extractor = index["specs"][matrix["spec"]]["extractor"]
            distances = store.get_distances(extractor, matrix["spec"])
            if distances is None:
                continue
            drawn, files = layouts.files(distances, matrix["metrics"])
            for path, data in files.items():
                store.put(path, data)
        matrices[matrix["spec"]] = {**drawn, "group": matrix["group"]}
    return _put_new(store, f"{SITE}/data", ".json.gz", published.packed({"format": DRAWN, "matrices": matrices}))


def _sweep(store: Store, before: Mapping[str, Any] | None) -> None:
    """Remove what neither this index nor the one before names, once it is old. Versions of VDNAs stay for good."""
    kept: set[str] = set()
    for pointer in (published.read_pointer(store), before):
        if pointer is not None:
            kept |= {path for path, _ in walk(store, pointer, [], vdnas=False)}
    for folder, ending in (("index", ".json.gz"), (f"{SITE}/data", "")):
        for name in store.names(folder, ending):
            path = f"{folder}/{name}{ending}"
            if path not in kept and store.age(path) > STALE:
                store.remove(path)
    for extractor in store.names("distances"):
        for spec in store.names(f"distances/{extractor}"):
            folder, current = f"distances/{extractor}/{spec}", store.distances_manifest(extractor, spec) or {}
            for group in store.names(folder, ".zarr"):
                path = f"{folder}/{group}.zarr"
                used = f"{path}/zarr.json" in kept or current.get("group") == f"{group}.zarr"
                if not used and store.age(f"{path}/zarr.json") > STALE:
                    store.remove(f"{path}.json")
                    store.remove_group(path)
