"""Publish the contents of a catalogue for its readers, as an index and a site.

    publish(store)                            # True if something new was published

The pointer is written last. Until then readers see the previous publication.
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
from pipeline.catalogue.index_schema import FORMAT, schema
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import Manifests, now
from pipeline.storage.changes import STALE, change
from pipeline.storage.folder import as_json

log = logging.getLogger(__name__)

FOLDERS = {"index": "index", "site": f"{SITE}/data"}
DRAWN = 1
"""Format of the files from which the site draws matrices."""


def publish(store: CatalogueWriter) -> bool:
    """Publish the current contents of a catalogue, and return whether they differ from the previous publication.

    If another run publishes at the same moment, the contents are read again. Raises `UserError` if there is no VDNA.
    """
    new = False

    def pointer(current: bytes | None) -> bytes:
        nonlocal new
        replacement = _write_parts(store, current)
        new = replacement is not None
        return replacement or current or b""

    change(store, published.POINTER, pointer)
    if new:
        _sweep(store)
    return new


def _write_parts(store: CatalogueWriter, current: bytes | None) -> bytes | None:
    """Write the objects of a new publication and return its pointer; None if the current pointer is up to date."""
    previous = _parse_pointer(store, current)
    manifests = [store.with_record(manifest) for manifest in _manifests(store, previous)]
    if not manifests:
        raise UserError(f"catalogue={store.url}: nothing to publish yet, add reduce to stages=[...]")
    pairs = sorted({(m["extractor"], m["spec"]) for m in manifests})
    matrices = [matrix for pair in pairs if (matrix := store.distances_with_record(*pair)) is not None]
    index = published.make(manifests, matrices)
    named = {matrix["group"].rpartition("/")[2] for matrix in index["matrices"]}
    for matrix in matrices:
        if matrix["group"] not in named:
            log.warning(
                "publish: the matrix of %s is not of the present versions and is left out: add compare to stages=[...]",
                matrix["extractor"],
            )
    page, files = app()
    files |= {f"index/schema-{FORMAT}.json": schema()}
    all_files = {**files, PAGE: page, **_ranges(store, index)}
    file_hashes = {path: hashlib.sha256(data).hexdigest() for path, data in all_files.items()}
    data = {"index": published.packed(index), "site": published.packed(_site(store, index, previous, file_hashes))}
    parts = {name: published.named(FOLDERS[name], ".json.gz", content) for name, content in data.items()}
    changed = {path: content for path, content in files.items() if store.get(path) != content}
    same = previous and all(previous.get(name) == part for name, part in parts.items())
    if same and not changed and store.get(PAGE) == page:
        return None
    for path, content in changed.items():
        store.put(path, content)
    for name, part in parts.items():
        store.put(part["path"], data[name])  # even if it exists: unnamed so far, it could be old enough to be swept
    store.put(PAGE, page)
    return as_json(published.pointer({**parts, "superseded": _superseded(previous)}))


def _ranges(store: CatalogueWriter, index: Mapping[str, Any]) -> dict[str, bytes]:
    """Histogram axes of the published networks, by path. Readers measure their own images on them."""
    files = {}
    for network, identity in {(spec["network"], spec["ranges"]) for spec in index["specs"].values() if spec["ranges"]}:
        try:
            for ranges_id, name in ((identity, f"{identity}.json"), (None, "current")):
                path = f"ranges/{network}/{name}"
                data = store.get(path)
                if data is None:
                    continue
                if store.get_ranges(network, ranges_id) is None:
                    raise DamagedError(f"{store.url}/{path} is damaged: there are no axes of that name")
                files[path] = data
        except DamagedError as error:
            log.warning("publish: %s, it is left out", error)
    return dict(sorted(files.items()))


def _superseded(previous: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Recent publications that may still be read, each with the time until which it was the current one."""
    if not previous:
        return []
    last = {"index": previous["index"], "site": previous["site"], "until": now()}
    publications = [*previous.get("superseded", []), last]
    return [entry for entry in publications if datetime.now(UTC) - datetime.fromisoformat(entry["until"]) < STALE]


def _manifests(store: CatalogueWriter, previous: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The current manifests. A published manifest that is damaged now is restored from the record of its version."""
    manifests = store.manifests()
    sound = {(m["dataset"], m["spec"]) for m in manifests}
    try:
        index = published.read_index(store, previous) if previous else {"vdnas": [], "specs": {}}
    except DamagedError:
        return manifests
    lost = [row for row in index["vdnas"] if (row["dataset"], row["spec"]) not in sound]
    restored = False
    for row in lost:
        extractor = index["specs"][row["spec"]]["extractor"]
        if store.restore(row["dataset"], extractor, row["spec"]):
            log.warning("publish: the manifest of %s, %s was damaged and is restored", row["dataset"], extractor)
            restored = True
    return store.manifests() if restored else manifests


def _parse_pointer(store: Manifests, data: bytes | None) -> dict[str, Any] | None:
    """The previous publication's pointer; None if there is none, or it is damaged."""
    try:
        return None if data is None else published.pointer_of(store, data)
    except DamagedError as error:
        log.warning("publish: %s, it is written anew", error)
        return None


def _site(
    store: CatalogueWriter, index: Mapping[str, Any], previous: Mapping[str, Any] | None, files: Mapping[str, str]
) -> dict[str, Any]:
    """The site's data: its files and the drawings of each matrix. Writes the drawings of matrices that have changed."""
    drawings: dict[str, Any] = {}
    if previous and "site" in previous:
        try:
            site = published.unpacked(store, previous["site"])
            drawings = {entry["group"]: entry for entry in site["matrices"].values() if site["format"] == DRAWN}
        except DamagedError as error:
            log.warning("publish: %s, it is made anew", error)
    matrices = {}
    for matrix in index["matrices"]:
        drawn = drawings.get(matrix["group"])
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


def _sweep(store: CatalogueWriter) -> None:
    """Remove old objects that neither the current publication nor a recent one names. Versions of VDNAs stay."""
    pointer = published.read_pointer(store)
    if pointer is None:
        return
    kept = set()
    for publication in (pointer, *pointer["superseded"]):
        index = {**listed(store, publication, []), "vdnas": []}
        kept |= {path for path, _ in walk(store, publication, index, [])}
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
