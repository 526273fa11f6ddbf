"""Publishing: an index and a site of what is in a catalogue; and a copy of both, with all they name, elsewhere.

    publish(store)                                          # in place; False where nothing is new
    copy(Manifests("catalogue"), target("s3://bucket/public"))
    copy(Manifests("catalogue"), target("hf:datasets/OWNER/NAME"))

Whatever is written has a name that only its own contents get, and the pointer comes last: a reader sees the old
catalogue or the new one. So what is there already need not be written again, and a copy that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from distributions import Ranges
from pipeline import layouts
from pipeline.catalogue import index as published
from pipeline.catalogue.targets import Target
from pipeline.errors import DamagedError, UserError
from pipeline.folder import AT_ONCE, as_json
from pipeline.manifests import Manifests
from pipeline.store import STALE, Store

log = logging.getLogger(__name__)

DRAWN = 1
"""Format of what the site draws."""
SITE = "site"
PAGE = f"{SITE}/index.html"


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
    page, app = _app()
    if before and all(before.get(name) == part for name, part in parts.items()) and store.get(PAGE) == page:
        return False
    store.put_new(f"index/schema-{published.FORMAT}.json", published.schema())
    for path, data in app.items():
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


def _app() -> tuple[bytes, dict[str, bytes]]:
    """The page, and what it loads: in a folder named by its contents, so that no reader mixes two programs."""
    root = Path(str(importlib.resources.files("pipeline").joinpath("site")))
    files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.*")) if path.is_file()}
    page = files.pop("index.html").decode()
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in files.items())).hexdigest()
    folder = f"app-{digest[:16]}"
    page = re.sub(r'(href|src)="(?=[\w/]+\.(?:css|js)")', rf'\1="{folder}/', page)
    return page.encode(), {f"{SITE}/{folder}/{name}": data for name, data in files.items()}


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


def copy(source: Manifests, target: Target) -> tuple[int, int]:
    """Copy what was published, what the target lacks of it, and the pointer last; objects and bytes that were copied.

    Raises `DamagedError` if anything is not as it was written: then the target's readers see what they saw before.
    """
    pointer = published.read_pointer(source)
    if pointer is None:
        raise UserError(f"catalogue={source.url}: nothing was published there yet: run with publish in stages=[...]")
    damaged: list[str] = []
    wanted = dict(walk(source, pointer, damaged))
    if damaged:
        raise DamagedError(f"nothing was copied: {'; '.join(damaged[:5])}")
    there, copied = target.sizes(), [0, 0]

    def read(path: str, sha256: str) -> bytes:
        data = source.at_once(path)
        if data is None or not hashlib.sha256(data).hexdigest().startswith(sha256):
            raise DamagedError(f"{source.url}/{path} is damaged: it is not what was written")
        copied[0] += 1
        copied[1] += len(data)
        return data

    target.put_all((path, partial(read, path, sha256)) for path, sha256 in wanted.items() if path not in there)
    page, app = _app()
    more = {**app, f"index/schema-{published.FORMAT}.json": published.schema(), **_ranges(source, pointer, damaged)}
    target.put_all((path, partial(bytes, data)) for path, data in more.items() if there.get(path) != len(data))
    target.put_all([(PAGE, lambda: page), (published.POINTER, lambda: as_json(pointer))])
    return copied[0], copied[1]


def _ranges(folder: Manifests, pointer: Mapping[str, Any], damaged: Collection[str]) -> dict[str, bytes]:
    """The histogram axes of the networks, for those who measure images of their own on them."""
    if any(pointer["index"]["path"] in words for words in damaged):
        return {}
    specs = published.unpacked(folder, pointer["index"])["specs"].values()
    paths = {
        f"ranges/{s['network']}/{name}" for s in specs if s["ranges"] for name in (f"{s['ranges']}.json", "current")
    }
    return {path: data for path in sorted(paths) if (data := folder.at_once(path)) is not None}


def verify(folder: Manifests, told: Callable[[int], None] = lambda _: None) -> tuple[int, int, list[str]]:
    """Read a published catalogue whole and hash it: how many objects and bytes, and what is damaged, in words. `told`
    hears the number of objects now and then."""
    damaged: list[str] = []
    try:
        pointer = published.read_pointer(folder)
    except DamagedError as error:
        return 1, 0, [str(error)]
    if pointer is None:
        raise UserError(f"catalogue={folder.url}: nothing was published there, so nothing says what it should hold")
    found = dict(walk(folder, pointer, damaged))

    def check(path: str) -> int:
        data = folder.at_once(path)
        if data is None or not hashlib.sha256(data).hexdigest().startswith(found[path]):
            damaged.append(
                f"{folder.url}/{path} is damaged: it is not {'there' if data is None else 'what was written'}"
            )
        return len(data or b"")

    size, number = 0, 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number, its in enumerate(threads.map(check, found), start=1):
            size += its
            if number % 1000 == 0:
                told(number)
    for path, data in _ranges(folder, pointer, damaged).items():
        number, size = number + 1, size + len(data)
        try:
            sound = path.endswith("current") or Ranges.from_json(data.decode()).id == Path(path).stem
        except ValueError:
            sound = False
        if not sound:
            damaged.append(f"{folder.url}/{path} is damaged: its contents are other ranges")
    return number, size, sorted(set(damaged))


def walk(
    folder: Manifests, pointer: Mapping[str, Any], damaged: list[str], vdnas: bool = True
) -> Iterator[tuple[str, str]]:
    """Every object that a published catalogue consists of, and its SHA-256, or as much of that as its name says. What
    leads to others and is not as it was written is told to `damaged`, and the others are not found."""
    for part in ("index", "site"):
        yield pointer[part]["path"], pointer[part]["sha256"]
    try:
        yield from _drawn(published.unpacked(folder, pointer["site"])["matrices"])
    except DamagedError as error:
        damaged.append(str(error))
    try:
        index = published.unpacked(folder, pointer["index"])
    except DamagedError as error:
        damaged.append(str(error))
        return
    records = [(matrix["manifest"], matrix["group"].rpartition("/")[0]) for matrix in index["matrices"]]
    records += [
        (record, row["group"].rpartition("/")[0])
        for row in (index["vdnas"] if vdnas else ())
        for record in (row["manifest"], *(version["manifest"] for version in row["versions"]))
    ]

    def group(record: Mapping[str, Any], path: str) -> list[tuple[str, str]]:
        found = [(record["path"], record["sha256"])]
        try:
            manifest = folder.checked(json.loads(published.checked(folder, record)), record["path"])
            found += [(f"{path}/{manifest['group']}/{name}", sha256) for name, sha256 in manifest["objects"].items()]
        except DamagedError as error:
            damaged.append(str(error))
        return found

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for objects in threads.map(lambda pair: group(*pair), records):
            yield from objects


def _drawn(part: Any) -> Iterator[tuple[str, str]]:
    """The files that the site draws, wherever its data name them; their names begin their SHA-256."""
    if isinstance(part, Mapping):
        for value in part.values():
            yield from _drawn(value)
    elif isinstance(part, str) and part.startswith(f"{SITE}/data/"):
        yield part, part.rpartition("/")[2].partition(".")[0]
