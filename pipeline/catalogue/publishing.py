"""Publishing: an index and a site of what is in a catalogue, for its readers.

    publish(store)                            # False where nothing is new

They see it at once when the pointer is written, and what was published before until then.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.catalogue import index as published
from pipeline.catalogue import site_data
from pipeline.catalogue.copies import PAGE, SITE, app, listed, walk
from pipeline.catalogue.writer import Store
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import Manifests, now
from pipeline.storage.changes import STALE, change
from pipeline.storage.folder import as_json

log = logging.getLogger(__name__)

FOLDERS = {"index": "index", "site": f"{SITE}/data"}
DRAWN = 1
"""Format of what the site draws."""


def publish(store: Store) -> bool:
    """Write the index and the site of what is there now; whether it was another than what was published.

    Where another run publishes at the same moment, what is there is looked at again.
    """
    new = False

    def pointer(there: bytes | None) -> bytes:
        nonlocal new
        after = _written(store, there)
        new = after is not None
        return after or there or b""

    change(store, published.POINTER, pointer)
    if new:
        _sweep(store)
    return new


def _written(store: Store, there: bytes | None) -> bytes | None:
    """Write what a new pointer would name, and return that; None where the one that is `there` says it all."""
    before = _before(store, there)
    manifests = [store.recorded(manifest) for manifest in _manifests(store, before)]
    if not manifests:
        raise UserError(f"catalogue={store.url}: nothing to publish yet, add reduce to stages=[...]")
    pairs = sorted({(m["extractor"], m["spec"]) for m in manifests})
    known = [matrix for pair in pairs if (matrix := store.recorded_distances(*pair)) is not None]
    index = published.make(manifests, known)
    named = {matrix["group"].rpartition("/")[2] for matrix in index["matrices"]}
    for matrix in known:
        if matrix["group"] not in named:
            log.warning(
                "publish: the matrix of %s is not of the present versions and is left out: add compare to stages=[...]",
                matrix["extractor"],
            )
    page, files = app()
    files |= {f"index/schema-{published.FORMAT}.json": published.schema()}
    all_files = {**files, PAGE: page, **_ranges(store, index)}
    said = {path: hashlib.sha256(data).hexdigest() for path, data in all_files.items()}
    data = {"index": published.packed(index), "site": published.packed(_site(store, index, before, said))}
    parts = {name: published.named(FOLDERS[name], ".json.gz", its) for name, its in data.items()}
    lacking = {path: content for path, content in files.items() if store.get(path) != content}
    same = before and all(before.get(name) == part for name, part in parts.items())
    if same and not lacking and store.get(PAGE) == page:
        return None
    for path, content in lacking.items():
        store.put(path, content)
    for name, part in parts.items():
        store.put(part["path"], data[name])  # also where it is: its age begins anew, should nothing have named it
    store.put(PAGE, page)
    return as_json(published.pointer({**parts, "superseded": _superseded(before)}))


def _ranges(store: Store, index: Mapping[str, Any]) -> dict[str, bytes]:
    """The histogram axes of the networks, for those who measure images of their own on them."""
    found = {}
    for network, identity in {(spec["network"], spec["ranges"]) for spec in index["specs"].values() if spec["ranges"]}:
        try:
            for known, name in ((identity, f"{identity}.json"), (None, "current")):
                path = f"ranges/{network}/{name}"
                data = store.get(path)
                if data is None:
                    continue
                if store.get_ranges(network, known) is None:
                    raise DamagedError(f"{store.url}/{path} is damaged: there are no axes of that name")
                found[path] = data
        except DamagedError as error:
            log.warning("publish: %s, it is left out", error)
    return dict(sorted(found.items()))


def _superseded(before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What was published lately and may still be read: until when each was the current one."""
    if not before:
        return []
    its = [*before.get("superseded", []), {"index": before["index"], "site": before["site"], "until": now()}]
    return [one for one in its if datetime.now(UTC) - datetime.fromisoformat(one["until"]) < STALE]


def _manifests(store: Store, before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The current manifests. One that was published and is damaged now is restored from its version's record."""
    found = store.manifests()
    there = {(m["dataset"], m["spec"]) for m in found}
    try:
        index = published.read_index(store, before) if before else {"vdnas": [], "specs": {}}
    except DamagedError:
        return found
    lost = [row for row in index["vdnas"] if (row["dataset"], row["spec"]) not in there]
    restored = False
    for row in lost:
        extractor = index["specs"][row["spec"]]["extractor"]
        if store.restored(row["dataset"], extractor, row["spec"]):
            log.warning("publish: the manifest of %s, %s was damaged and is restored", row["dataset"], extractor)
            restored = True
    return store.manifests() if restored else found


def _before(store: Manifests, there: bytes | None) -> dict[str, Any] | None:
    try:
        return None if there is None else published.pointer_of(store, there)
    except DamagedError as error:
        log.warning("publish: %s, it is written anew", error)
        return None


def _site(
    store: Store, index: Mapping[str, Any], before: Mapping[str, Any] | None, files: Mapping[str, str]
) -> dict[str, Any]:
    """Write what the site draws matrices from, where that has changed; what its data say of it and of its files."""
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
            drawn, objects = site_data.files(distances, matrix["metrics"])
            for path, data in objects.items():
                store.put(path, data)
        matrices[matrix["spec"]] = {**drawn, "group": matrix["group"]}
    return {"format": DRAWN, "matrices": matrices, "files": dict(files)}


def _sweep(store: Store) -> None:
    """Remove what is old and named by no index that is, or lately was, the current one. Versions of VDNAs stay."""
    pointer = published.read_pointer(store)
    if pointer is None:
        return
    kept = set()
    for its in (pointer, *pointer["superseded"]):
        index = {**listed(store, its, []), "vdnas": []}
        kept |= {path for path, _ in walk(store, its, index, [])}
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
