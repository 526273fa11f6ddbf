"""Listing the objects that a path, URL, pattern or brace range leads to.

    for fs, entry, named in entries("photos/*.jpg", {}, 120):
        entry.name, entry.size, entry.version

Names that come from a listing are taken literally: wildcards and braces in them have no meaning.
"""

from __future__ import annotations

import itertools
import logging
import os
import posixpath
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fsspec.utils

from pipeline.data.names import UNREADABLE, hidden, is_url, is_wanted, lowered
from pipeline.data.shards import ABSENT, SAME, UNKNOWN
from pipeline.data.webdataset_names import shard_names
from pipeline.errors import UserError
from pipeline.storage.objects import call, filesystem, is_local, is_web, retry, version
from pipeline.storage.urls import redact

ACCEPTED = "a folder of images, .tar, .tar.gz (.bz2, .xz, .zst, .lz4), .zip, .parquet, an image, or a .txt of paths"

log = logging.getLogger(__name__)
WILDCARDS = "*?["
WILDCARD = re.compile(r"([*?[])")

MANY = 32
"""Number of names in one folder from which the whole folder is listed."""
MAX_REQUESTS = 32
"""Number of requests for single names that are made at once."""


class NoMatch(UserError):
    """A pattern that matches nothing."""


class Entry(NamedTuple):
    """An object of a store: its full name, its size in bytes, and the store's version of it."""

    name: str
    size: int
    version: str

    @classmethod
    def of(cls, name: str, info: Mapping[str, Any]) -> Entry:
        if not name.isascii() and name != name.encode(errors="replace").decode():
            raise UserError(f"{redact(ascii(name))}: a name must be UTF-8 to be written down; rename it")
        size = info.get("size")
        return cls(name, UNKNOWN if size is None else int(size), version(info))


class Listed(NamedTuple):
    """An entry and its file system. `named` is True if the user has written the object's name."""

    fs: Any
    entry: Entry
    named: bool = False


def entries(url: str, storage: dict[str, Any], patience: float, key: str = "") -> Iterator[Listed]:
    """The objects that a path, URL, glob or brace range leads to, in order. `key` is the image key.

    Raises `UserError` if a pattern matches nothing, or an object is of a kind that is not read.
    """
    scheme, mark, rest = url.partition("://")
    url = f"{scheme.lower()}{mark}{rest}" if mark and is_url(url) else url
    url = url.partition("#")[0] if url.startswith(("http://", "https://")) else url  # a fragment is never sent
    names = shard_names(url, partial(_exists, storage=storage, patience=patience))
    empty: list[str] = []
    matched = False
    for listed in _list_names(names, storage, patience, key, empty):
        matched = True
        yield listed
    if empty and not matched:
        raise UserError(f"dataset.url={redact(url)}: the pattern matches nothing")
    if empty:
        log.warning("%s", redact(f"dataset.url={url}: nothing matches {', '.join(empty[:3])}"))


def _list_names(
    names: Iterable[str], storage: dict[str, Any], patience: float, key: str, empty: list[str]
) -> Iterator[Listed]:
    """The objects that names and patterns lead to. Patterns that match nothing are added to `empty`."""
    for _, same_folder in itertools.groupby(names, key=lambda name: name.rpartition("/")[0]):
        group = list(same_folder)
        fs, first = filesystem(group[0], storage)

        def resolve(name: str) -> list[Listed]:
            fs, path = filesystem(name, storage)
            try:
                return retry(lambda: list(_resolve(fs, path, name, patience, key)), patience, name, True)
            except NoMatch:
                empty.append(name)
                return []

        if is_web(fs) and len(group) >= MANY:  # a website does not list its folders
            with ThreadPoolExecutor(MAX_REQUESTS) as threads:
                yield from itertools.chain.from_iterable(threads.map(resolve, group))
            continue
        if len(group) < MANY or is_local(fs) or any(WILDCARD.search(name) for name in group):
            for name in group:
                yield from resolve(name)
            continue
        # A request for each of a million shards would take hours. A listing returns a thousand names per request.
        listing = {entry.name.rpartition("/")[2]: entry for entry in _listing(fs, first.rpartition("/")[0], patience)}
        for name in group:
            entry = listing.get(name.rpartition("/")[2])
            if entry is None or not is_wanted(name, key):  # a folder, or a file that is refused
                yield from resolve(name)
            else:
                yield Listed(fs, entry, True)


def _listing(fs: Any, folder: str, patience: float) -> Iterator[Entry]:
    """The objects directly in a folder. Frees each description after use: a million of them would fill the memory."""
    infos = retry(lambda: fs.ls(folder, detail=True), patience, folder, True)
    fs.invalidate_cache()
    infos = list(reversed(infos))
    while infos:
        info = infos.pop()
        if info["type"] == "file":
            yield Entry.of(fs.unstrip_protocol(info["name"]), info)


def _exists(url: str, storage: dict[str, Any], patience: float) -> bool:
    """Whether an object of exactly this name exists. False if the store fails: reading the object reports the fault."""
    fs, path = filesystem(url, storage)
    with suppress(Exception):  # every store's client has its own exceptions
        return not is_web(fs) and bool(call(fs, "exists", path, patience=patience))
    return False


def _resolve(fs: Any, path: str, url: str, patience: float, key: str) -> Iterator[Listed]:
    """The objects below a folder (recursively), the matches of a glob, or one file; sorted by name."""
    if not is_web(fs) and any(sign in path for sign in WILDCARDS) and not fs.exists(path):
        start, pattern = _split_pattern(fs, path)
        if any("**" in part and part != "**" for part in pattern.split("/")):
            raise UserError(f"dataset.url={redact(url)}: ** stands for folders and their folders: write **/*.jpg")
        matches = fs.glob(WILDCARD.sub(r"[\1]", start) + pattern, detail=True)
        if is_local(fs):  # fsspec does not go through links to folders
            matches |= dict(_through_links(fs, start.rstrip("/"), pattern.rstrip("/"), key))
        asked = [part for part in pattern.split("/") if hidden(part)]
        matches = {name: info for name, info in matches.items() if not _has_other_hidden(name[len(start) :], asked)}
        if not matches:
            raise NoMatch(url)
        listed: set[str] = set()  # `**` matches a folder and also the files in it
        for name in sorted(matches):
            info = matches.pop(name)
            if info["type"] == "directory":
                inside = [] if is_local(fs) and _leads_back(name) else list(list_below(fs, name, key))
            elif info["type"] == "file" and _is_read(name, key):  # a .txt is a list only if the user names it
                inside = [Listed(fs, Entry.of(fs.unstrip_protocol(name), info))]
            else:
                continue
            yield from (item for item in inside if item.entry.name not in listed)
            listed |= {item.entry.name for item in inside}
        return
    path = absolute(path) if is_local(fs) else path
    info = call(fs, "info", path, patience=patience)
    if info["type"] == "directory":
        yield from list_below(fs, path, key)
    elif info["type"] == "file" and (is_wanted(path, key) or lowered(path).endswith(".txt")):
        yield Listed(fs, Entry.of(fs.unstrip_protocol(path), info), True)
    elif info["size"] == 0 and not is_web(fs) and (inside := list(list_below(fs, path, key))):
        yield from inside  # an object that stands for a folder
    else:
        hint = "; a website does not list its folders: give names, or a .txt of them" if is_web(fs) else ""
        raise UserError(f"dataset.url={redact(url)}: not a kind of file that holds images; expected {ACCEPTED}{hint}")


def _has_other_hidden(path: str, asked: Sequence[str]) -> bool:
    """Whether a path has hidden parts other than those that a pattern asks for."""
    parts = path.split("/")
    return any(hidden(part) and not any(fnmatchcase(part, pattern) for pattern in asked) for part in parts)


def absolute(path: str) -> str:
    """An absolute local path without `.` and `..`. After a symbolic link, `..` is the folder of the link's target."""
    head, up, tail = f"{path}/".rpartition("/../")
    return posixpath.normpath(f"{os.path.realpath(f'{head}/..')}/{tail}" if up else path)


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to a folder above it."""
    above = os.path.realpath(folder.rpartition("/")[0] or "/")
    return f"{above}/".startswith(f"{os.path.realpath(folder)}/")


def _through_links(fs: Any, root: str, pattern: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The matches of a pattern below a local folder, also through links to folders."""
    part, _, rest = pattern.partition("/")
    if "**" in pattern:
        matches = re.compile(fsspec.utils.glob_translate(pattern)).match
        yield from ((name, info) for name, info in _walk(fs, root, key).items() if matches(name[len(root) + 1 :]))
        return
    try:
        names = [inside.name for inside in Path(root or "/").iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names if part not in names else [part]:
        if name == part or fnmatchcase(name, part):
            info = _info(fs, f"{root}/{name}")
            if not rest:
                yield f"{root}/{name}", info
            elif info["type"] == "directory":
                yield from _through_links(fs, f"{root}/{name}", rest, key)


def _split_pattern(fs: Any, path: str) -> tuple[str, str]:
    """Split a path into the start that exists under its literal name, and the rest, which begins with a pattern."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if any(sign in part for sign in WILDCARDS) and not fs.exists("/".join(parts[: i + 1])):
            return "".join(f"{literal}/" for literal in parts[:i]), "/".join(parts[i:])
    return path, ""


def list_below(fs: Any, path: str, key: str) -> Iterator[Listed]:
    """The images and archives below a folder, sorted by name. Archives of unreadable kinds are included, hidden files
    are not."""
    infos = _walk(fs, path, key) if is_local(fs) else fs.find(path, detail=True)
    fs.invalidate_cache()
    for name in sorted(infos):
        info = infos.pop(name)
        if info["type"] == "file" and _is_read(name, key) and not hidden(name[len(path) :]):
            yield Listed(fs, Entry.of(fs.unstrip_protocol(name), info))


def _is_read(name: str, key: str) -> bool:
    return is_wanted(name, key) or lowered(name).endswith(UNREADABLE)


def _walk(fs: Any, path: str, key: str) -> dict[str, dict[str, Any]]:
    """The files below a local folder. Hidden folders are left out. An unreadable folder raises an error.

    Links to folders are followed after all other folders, and each folder is entered once. So loops end, and a file
    gets the name that leads to it without links.
    """
    infos: dict[str, dict[str, Any]] = {}
    visited = set(map(str, Path(os.path.realpath(path)).parents))
    folders, links = deque([path]), deque[str]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        if (real := os.path.realpath(folder)) in visited:
            continue
        visited.add(real)
        with os.scandir(folder or "/") as inside:
            for entry in sorted(inside, key=lambda entry: entry.name):
                name = f"{folder}/{entry.name}"
                if _is_folder(entry):
                    if not hidden(entry.name):
                        (links if entry.is_symlink() else folders).append(name)
                elif _is_read(entry.name, key):
                    infos[name] = _info(fs, name)
    return infos


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _info(fs: Any, path: str) -> dict[str, Any]:
    try:
        info: dict[str, Any] = fs.info(path)
        return info
    except PermissionError:
        raise
    except OSError:  # a broken link, or a link to itself: counted as missing when it is read
        return {"type": "file", "size": ABSENT}


def mark_links(objects: Sequence[Listed]) -> list[Listed]:
    """Mark repeated local files: where symbolic links give a file several names, all but one get the size `SAME`.

    The name without links keeps its size, otherwise the first name. Hard links and copies count as files of their own.
    """
    real, folders, by_link = dict[str, str](), dict[str, str](), list[int]()
    for i, (fs, entry, _) in enumerate(objects):
        if not is_local(fs) or entry.size == ABSENT:
            continue
        path = fs._strip_protocol(entry.name)
        folder = path.rpartition("/")[0]
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or "/")
        if Path(path).is_symlink() or folders[folder] != folder:
            by_link.append(i)
        else:
            real[path] = entry.name
    result = list(objects)
    for i in by_link:
        fs, entry, named = objects[i]
        path = os.path.realpath(fs._strip_protocol(entry.name))
        if real.setdefault(path, entry.name) != entry.name:
            result[i] = Listed(fs, Entry(entry.name, SAME, ""), named)
    return result
