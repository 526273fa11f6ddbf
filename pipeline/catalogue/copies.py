"""Copy a published catalogue to another place, and verify a published catalogue.

    copy(Manifests("catalogue"), target("s3://bucket/public"))
    copy(Manifests("catalogue"), target("hf:datasets/OWNER/NAME"))
    objects, size, damaged = verify(Manifests("https://host/catalogue"))

A published object is named after its contents, and the pointer is written last: a reader sees the old catalogue or the
new one. Objects that the target has already are not written again, so an interrupted copy continues.
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
from pipeline.errors import DamagedError, UserError, damage
from pipeline.formats.manifests import CHANGING, Manifests
from pipeline.storage.folder import AT_ONCE, as_json
from pipeline.storage.objects import is_web

SITE = "site"
PAGE = f"{SITE}/index.html"
DRAWN = re.compile(rf"{SITE}/data/([0-9a-f]{{16}})\.\w+")
"""Files from which the site draws matrices, named after the first digits of their SHA-256."""
PICTURE = re.compile(r"thumbnails/([0-9a-f]{16})\.jpg")


class LostVersionsError(UserError):
    """The target publishes versions that the source does not have, so a copy would take them from its readers."""


def copy(
    source: Manifests, target: Target, readers: Manifests | None = None, repaired: Manifests | None = None
) -> tuple[int, int]:
    """Copy the published objects that a target lacks, then the pointer. Returns the objects and bytes copied.

    Args:
        readers: the target, opened for reading. If given, a copy that would take a published version from the target's
            readers is refused, even a version that another copy publishes at the same time.
        repaired: the target, opened for reading. If given, every object of the target is read and its hash compared. If
            not, an object of the right size counts as intact.

    Raises `UserError` if nothing was published at the source, `LostVersionsError` if versions would be lost, and
    `DamagedError` if an object of the source is damaged. After an error the target's readers see the same catalogue as
    before the copy.
    """
    while True:
        pointer = published.read_pointer(source)
        if pointer is None:
            raise UserError(
                f"catalogue={source.url}: nothing was published there yet: run with publish in stages=[...]"
            )
        try:
            return _copy_objects(source, pointer, target, readers, repaired)
        except LostVersionsError:
            if published.read_pointer(source) == pointer:
                raise


def _copy_objects(
    source: Manifests, pointer: dict[str, Any], target: Target, readers: Manifests | None, repaired: Manifests | None
) -> tuple[int, int]:
    damaged: list[str] = []
    index = listed(source, pointer, damaged)
    wanted = dict(walk(source, pointer, index, damaged))
    page = wanted.pop(PAGE, "")
    if damaged:
        raise DamagedError(f"nothing was copied: {'; '.join(damaged[:5])}")

    def new_pointer(current: bytes | None) -> bytes:
        """The pointer's new content, if no version of the current publication is lost."""
        lost = _lost_versions(index, readers, current) if readers and current is not None else []
        if lost:
            raise LostVersionsError(
                f"{target.url}: lists {len(lost)} VDNA(s) that {source.url} has not got ({', '.join(lost[:3])}); "
                "publish from a catalogue that has them too, or add --replace"
            )
        return as_json(pointer)

    new_pointer(readers.get_verified(published.POINTER) if readers else None)
    target_sizes, sizes, copied = target.sizes(), {} if is_web(source.fs) else source.sizes(), [0, 0]

    def lacks(path: str, sha256: str) -> bool:
        """Whether the target does not have an object, or has a damaged one."""
        if target_sizes.get(path, -1) != sizes.get(path, target_sizes.get(path)):
            return True
        return repaired is not None and not _has_hash(repaired.get_at_once(path), sha256)

    def read(path: str, sha256: str) -> bytes:
        data = source.get_at_once(path)
        if data is None or not _has_hash(data, sha256):
            raise DamagedError(f"{source.url}/{path} is damaged: it is not what was written")
        return data

    def counted(path: str, sha256: str) -> bytes:
        data = read(path, sha256)
        copied[0] += 1
        copied[1] += len(data)
        return data

    target.put_all((path, partial(counted, path, sha256)) for path, sha256 in wanted.items() if lacks(path, sha256))
    content = read(PAGE, page)
    target.put_all([(PAGE, partial(bytes, content))])
    target.change(published.POINTER, new_pointer)
    return copied[0], copied[1]


def _lost_versions(index: Mapping[str, Any], target: Manifests, pointer: bytes) -> list[str]:
    """Names of the versions that are published at a target but not in an index."""
    try:
        target_index = published.read_index(target, published.pointer_of(target, pointer))
    except DamagedError:  # the copy replaces it
        return []

    def versions(index: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
        names: dict[tuple[str, ...], str] = {}
        for row in index["vdnas"]:
            for version in (row, *row["versions"]):
                name = f"{row['dataset']} · {index['specs'][row['spec']]['extractor']}, version {version['version']}"
                names[row["dataset"], row["spec"], version["digest"]] = name
        return names

    kept = versions(index)
    return sorted(name for key, name in versions(target_index).items() if key not in kept)


def listed(folder: Manifests, pointer: Mapping[str, Any], damaged: list[str]) -> dict[str, Any]:
    """The index that a pointer names. If it is damaged, an empty index, and a line in `damaged`."""
    try:
        return published.read_index(folder, pointer)
    except DamagedError as error:
        damaged.append(str(error))
        return {"specs": {}, "vdnas": [], "matrices": []}


def _has_hash(data: bytes | None, sha256: str) -> bool:
    """Whether an object has a SHA-256, of which `sha256` may be the first digits only."""
    return data is not None and hashlib.sha256(data).hexdigest().startswith(sha256)


def verify(folder: Manifests, told: Callable[[int], None] = lambda _: None) -> tuple[int, int, list[str]]:
    """Read and hash every object of a published catalogue.

    Returns the number of objects, their bytes, and a line for each damaged object. `told` is called with the number of
    objects read so far, every 1000 objects. Raises `UserError` if nothing was published.
    """
    damaged: list[str] = []
    try:
        pointer = published.read_pointer(folder)
    except DamagedError as error:
        return 1, 0, [str(error)]
    if pointer is None:
        raise UserError(f"catalogue={folder.url}: nothing was published there, so nothing says what it should hold")
    index = listed(folder, pointer, damaged)
    expected = dict(walk(folder, pointer, index, damaged))

    def check(path: str) -> int:
        data = folder.get_at_once(path)
        if not _has_hash(data, expected[path]):
            why = "there" if data is None else "what was written"
            damaged.append(f"{folder.url}/{path} is damaged: it is not {why}")
        return len(data or b"")

    size, number = 0, 0
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number, length in enumerate(threads.map(check, expected), start=1):
            size += length
            if number % 1000 == 0:
                told(number)
    damaged += _heads(folder, index)
    return number, size, sorted(set(damaged))


def _heads(folder: Manifests, index: Mapping[str, Any]) -> list[str]:
    """A line for each damaged current manifest. These manifests are not published, but the next run needs them."""
    paths = [f"{row['group'].rpartition('/')[0]}/{row['spec']}.json" for row in index["vdnas"]]
    paths += [f"{matrix['group'].rpartition('/')[0]}/manifest.json" for matrix in index["matrices"]]

    def check(path: str) -> list[str]:
        data = folder.get_at_once(path)
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
        return [line for lines in threads.map(check, paths) for line in lines]


def walk(
    folder: Manifests, pointer: Mapping[str, Any], index: Mapping[str, Any], damaged: list[str]
) -> Iterator[tuple[str, str]]:
    """Every object of a published catalogue, with its SHA-256 or with those first digits that its name has.

    A damaged object that names other objects adds a line to `damaged`; the objects that it names are left out.
    """
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
        objects = [(record["path"], record["sha256"])]
        try:
            with damage(f"{folder.url}/{record['path']} is damaged"):
                manifest = folder.check_manifest(json.loads(published.checked(folder, record)), record["path"])
                objects += [
                    (f"{path}/{manifest['group']}/{name}", sha256) for name, sha256 in manifest["objects"].items()
                ]
        except DamagedError as error:
            damaged.append(str(error))
        return objects

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for objects in threads.map(lambda pair: group(*pair), records):
            yield from objects


def _drawn(part: Any) -> Iterator[tuple[str, str]]:
    """The files from which the site draws matrices, anywhere in its data, and the first digits of their SHA-256."""
    if isinstance(part, Mapping):
        for value in part.values():
            yield from _drawn(value)
    elif isinstance(part, str) and (name := DRAWN.fullmatch(part)):
        yield part, name[1]


def app() -> tuple[bytes, dict[str, bytes]]:
    """The site's page, and the files that it loads by their paths.

    The files are in a folder named after their contents, so that a browser never mixes two versions of the program.
    """
    root = Path(str(importlib.resources.files("pipeline").joinpath("site")))
    files = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.*")) if path.is_file()}
    page = files.pop("index.html").decode()
    digest = hashlib.sha256(b"".join(name.encode() + data for name, data in files.items())).hexdigest()
    folder = f"app-{digest[:16]}"
    page = re.sub(r'(href|src)="(?=[\w/]+\.(?:css|js)")', rf'\1="{folder}/', page)
    return page.encode(), {f"{SITE}/{folder}/{name}": data for name, data in files.items()}
