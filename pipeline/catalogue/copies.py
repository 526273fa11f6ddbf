"""A published catalogue as a whole: what it consists of, a copy of it elsewhere, and whether it is as it was written.

    copy(Manifests("catalogue"), target("s3://bucket/public"))
    copy(Manifests("catalogue"), target("hf:datasets/OWNER/NAME"))
    objects, size, damaged = verify(Manifests("https://host/catalogue"))

Whatever is published has a name that only its own contents get, and the pointer is written last: a reader sees the old
catalogue or the new one. What the target has already is not written again, so a copy that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.catalogue import index as published
from pipeline.catalogue.targets import Target
from pipeline.errors import DamagedError, UserError
from pipeline.formats.groups import damage
from pipeline.formats.manifests import CHANGING, Manifests
from pipeline.storage.folder import AT_ONCE, as_json
from pipeline.storage.objects import is_web

SITE = "site"
PAGE = f"{SITE}/index.html"
DRAWN = re.compile(rf"{SITE}/data/([0-9a-f]{{16}})\.\w+")
"""Files that the site draws matrices from, named by the beginning of their SHA-256."""
PICTURE = re.compile(r"thumbnails/([0-9a-f]{16})\.jpg")


class Lost(UserError):
    """Versions are published at a target that a copy would take from its readers."""


def copy(
    source: Manifests, target: Target, readers: Manifests | None = None, repaired: Manifests | None = None
) -> tuple[int, int]:
    """Copy what was published, what the target lacks of it, and the pointer last; objects and bytes that were copied.

    `readers` and `repaired` are the target as it is read, each where it is given: `readers` lose no version that they
    have there, not even one that another copy writes at the same moment; and what is there with its size is read and
    compared where it is `repaired`, else it is taken for whole.

    Raises `Lost`, or `DamagedError` if anything is not as it was written: then the target's readers see what they saw
    before.
    """
    while True:
        pointer = published.read_pointer(source)
        if pointer is None:
            raise UserError(
                f"catalogue={source.url}: nothing was published there yet: run with publish in stages=[...]"
            )
        try:
            return _copied(source, pointer, target, readers, repaired)
        except Lost:
            if published.read_pointer(source) == pointer:
                raise


def _copied(
    source: Manifests, pointer: dict[str, Any], target: Target, readers: Manifests | None, repaired: Manifests | None
) -> tuple[int, int]:
    damaged: list[str] = []
    index = listed(source, pointer, damaged)
    wanted = dict(walk(source, pointer, index, damaged))
    page = wanted.pop(PAGE, "")
    if damaged:
        raise DamagedError(f"nothing was copied: {'; '.join(damaged[:5])}")

    def after(there: bytes | None) -> bytes:
        """The pointer that replaces the one that is there."""
        gone = _lost(index, readers, there) if readers and there is not None else []
        if gone:
            raise Lost(
                f"{target.url}: lists {len(gone)} VDNA(s) that {source.url} has not got ({', '.join(gone[:3])}); "
                "publish from a catalogue that has them too, or add --replace"
            )
        return as_json(pointer)

    after(readers.get_known(published.POINTER) if readers else None)
    there, sizes, copied = target.sizes(), {} if is_web(source.fs) else source.sizes(), [0, 0]

    def lacks(path: str, sha256: str) -> bool:
        """Whether the target has not got it, or not as it was written."""
        if there.get(path, -1) != sizes.get(path, there.get(path)):
            return True
        return repaired is not None and not _is(repaired.at_once(path), sha256)

    def read(path: str, sha256: str) -> bytes:
        data = source.at_once(path)
        if data is None or not _is(data, sha256):
            raise DamagedError(f"{source.url}/{path} is damaged: it is not what was written")
        return data

    def counted(path: str, sha256: str) -> bytes:
        data = read(path, sha256)
        copied[0] += 1
        copied[1] += len(data)
        return data

    target.put_all((path, partial(counted, path, sha256)) for path, sha256 in wanted.items() if lacks(path, sha256))
    shown = read(PAGE, page)
    target.put_all([(PAGE, partial(bytes, shown))])
    target.change(published.POINTER, after)
    return copied[0], copied[1]


def _lost(mine: Mapping[str, Any], there: Manifests, pointer: bytes) -> list[str]:
    """The versions that a pointer there names and this index does not."""
    try:
        theirs = published.read_index(there, published.pointer_of(there, pointer))
    except DamagedError:  # a copy makes it whole
        return []

    def versions(index: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
        found: dict[tuple[str, ...], str] = {}
        for row in index["vdnas"]:
            for its in (row, *row["versions"]):
                name = f"{row['dataset']} · {index['specs'][row['spec']]['extractor']}, version {its['version']}"
                found[row["dataset"], row["spec"], its["digest"]] = name
        return found

    known = versions(mine)
    return sorted(name for key, name in versions(theirs).items() if key not in known)


def listed(folder: Manifests, pointer: Mapping[str, Any], damaged: list[str]) -> dict[str, Any]:
    """What is listed; nothing where that is `damaged`."""
    try:
        return published.read_index(folder, pointer)
    except DamagedError as error:
        damaged.append(str(error))
        return {"specs": {}, "vdnas": [], "matrices": []}


def _is(data: bytes | None, sha256: str) -> bool:
    """Whether an object has a SHA-256, of which a name may say only the beginning."""
    return data is not None and hashlib.sha256(data).hexdigest().startswith(sha256)


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
    index = listed(folder, pointer, damaged)
    found = dict(walk(folder, pointer, index, damaged))

    def check(path: str) -> int:
        data = folder.at_once(path)
        if not _is(data, found[path]):
            why = "there" if data is None else "what was written"
            damaged.append(f"{folder.url}/{path} is damaged: it is not {why}")
        return len(data or b"")

    size, number = 0, 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number, its in enumerate(threads.map(check, found), start=1):
            size += its
            if number % 1000 == 0:
                told(number)
    damaged += _heads(folder, index)
    return number, size, sorted(set(damaged))


def _heads(folder: Manifests, index: Mapping[str, Any]) -> list[str]:
    """What is damaged of the manifests that runs go on from, where they lie beside what was published."""
    paths = [f"{row['group'].rpartition('/')[0]}/{row['spec']}.json" for row in index["vdnas"]]
    paths += [f"{matrix['group'].rpartition('/')[0]}/manifest.json" for matrix in index["matrices"]]

    def check(path: str) -> list[str]:
        data = folder.at_once(path)
        try:
            if data is not None:
                with damage(f"{folder.url}/{path} is damaged"):
                    head = json.loads(data)
                    record = json.loads(published.checked(folder, head["record"]))
                    if other := [key for key in record if key not in CHANGING and head.get(key) != record[key]]:
                        raise DamagedError(f"{folder.url}/{path} is damaged: its {', '.join(other)} is another's")
        except DamagedError as error:
            return [f"{folder.url}/{path} is damaged: publish makes it anew from its version's record ({error})"]
        return []

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return [words for found in threads.map(check, paths) for words in found]


def walk(
    folder: Manifests, pointer: Mapping[str, Any], index: Mapping[str, Any], damaged: list[str]
) -> Iterator[tuple[str, str]]:
    """Every object that a published catalogue consists of, and its SHA-256, or as much of that as its name says. What
    leads to others and is not as it was written is told to `damaged`, and the others are not found."""
    for part in ("index", "site"):
        yield pointer[part]["path"], pointer[part]["sha256"]
    try:
        with damage(f"{folder.url}/{pointer['site']['path']} is damaged"):
            site = published.unpacked(folder, pointer["site"])
            yield from [*_drawn(site["matrices"]), *site["files"].items()]
    except DamagedError as error:
        damaged.append(str(error))
    for row in index["vdnas"]:
        yield from ((path, name[1]) for path in row.get("thumbnails", ()) if (name := PICTURE.fullmatch(path)))
    records = [(matrix["manifest"], matrix["group"].rpartition("/")[0]) for matrix in index["matrices"]]
    records += [
        (record, row["group"].rpartition("/")[0])
        for row in index["vdnas"]
        for record in (row["manifest"], *(version["manifest"] for version in row["versions"]))
    ]

    def group(record: Mapping[str, Any], path: str) -> list[tuple[str, str]]:
        found = [(record["path"], record["sha256"])]
        try:
            with damage(f"{folder.url}/{record['path']} is damaged"):
                manifest = folder.checked(json.loads(published.checked(folder, record)), record["path"])
                found += [
                    (f"{path}/{manifest['group']}/{name}", sha256) for name, sha256 in manifest["objects"].items()
                ]
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
    elif isinstance(part, str) and (name := DRAWN.fullmatch(part)):
        yield part, name[1]


def app() -> tuple[bytes, dict[str, bytes]]:
    """The page, and what it loads: in a folder named by its contents, so that no reader mixes two programs."""
    root = Path(str(importlib.resources.files("pipeline").joinpath("site")))
    files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.*")) if path.is_file()}
    page = files.pop("index.html").decode()
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in files.items())).hexdigest()
    folder = f"app-{digest[:16]}"
    page = re.sub(r'(href|src)="(?=[\w/]+\.(?:css|js)")', rf'\1="{folder}/', page)
    return page.encode(), {f"{SITE}/{folder}/{name}": data for name, data in files.items()}
