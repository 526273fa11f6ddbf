"""What a path, URL, pattern, brace range or list leads to: objects, by name.

    for fs, entry, named in entries("photos/*.jpg", {}, 120):
        entry.name, entry.size, entry.version

Names that are found by listing are data: nothing in them is a sign.
"""

from __future__ import annotations

import itertools
import logging
import os
import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import braceexpand
import fsspec.utils

from pipeline.data.names import UNREADABLE, ending, hidden, is_url, wanted
from pipeline.data.shards import ABSENT, SAME, UNKNOWN
from pipeline.errors import UserError
from pipeline.storage.objects import call, filesystem, hide, is_local, is_web, patiently, version

ACCEPTED = "a folder of images, .tar, .tar.gz (.bz2, .xz, .zst, .lz4), .zip, .parquet, an image, or a .txt of paths"

log = logging.getLogger(__name__)
SIGNS = "*?["
SIGN = re.compile(r"([*?[])")

MANY = 32
"""Names in one folder from which on it is listed, and requests for single names that are under way at once."""


class NoMatch(UserError):
    """A pattern matches nothing."""


class Entry(NamedTuple):
    """An object that was found: its full name, its size in bytes, and the store's version of it."""

    name: str
    size: int
    version: str

    @classmethod
    def of(cls, name: str, info: Mapping[str, Any]) -> Entry:
        if not name.isascii() and name != name.encode(errors="replace").decode():
            raise UserError(f"{hide(ascii(name))}: a name must be UTF-8 to be written down; rename it")
        size = info.get("size")
        return cls(name, UNKNOWN if size is None else int(size), version(info))


class Found(NamedTuple):
    """An entry and its file system; `named` if the user wrote its name."""

    fs: Any
    entry: Entry
    named: bool = False


def entries(url: str, storage: dict[str, Any], patience: float, key: str = "") -> Iterator[Found]:
    """What a path, URL, glob or brace range leads to, in order. `key` says which part of a sample is the image."""
    scheme, mark, rest = url.partition("://")
    url = f"{scheme.lower()}{mark}{rest}" if mark and is_url(url) else url
    url = url.partition("#")[0] if url.startswith(("http://", "https://")) else url  # which is never sent
    names = expanded(url, partial(_exists, storage=storage, patience=patience))
    empty: list[str] = []
    matched = False
    for found in _of_names(names, storage, patience, key, empty):
        matched = True
        yield found
    if empty and not matched:
        raise UserError(f"dataset.url={hide(url)}: the pattern matches nothing")
    if empty:
        log.warning("%s", hide(f"dataset.url={url}: nothing matches {', '.join(empty[:3])}"))


def _of_names(
    names: Iterable[str], storage: dict[str, Any], patience: float, key: str, empty: list[str]
) -> Iterator[Found]:
    """What names and patterns lead to; patterns that match nothing are told to `empty`."""
    for _, its in itertools.groupby(names, key=lambda name: name.rpartition("/")[0]):
        several = list(its)
        fs, first = filesystem(several[0], storage)

        def one(name: str) -> list[Found]:
            fs, path = filesystem(name, storage)
            try:
                return patiently(lambda: list(_list(fs, path, name, patience, key)), patience, name, True)
            except NoMatch:
                empty.append(name)
                return []

        if is_web(fs) and len(several) >= MANY:  # which does not list its folders
            with ThreadPoolExecutor(MANY) as asking:
                yield from itertools.chain.from_iterable(asking.map(one, several))
            continue
        if len(several) < MANY or is_local(fs) or any(SIGN.search(name) for name in several):
            for name in several:
                yield from one(name)
            continue
        # A request for each of a million shards would take hours; the folder lists a thousand at a time.
        there = {entry.name.rpartition("/")[2]: entry for entry in _listing(fs, first.rpartition("/")[0], patience)}
        for name in several:
            entry = there.get(name.rpartition("/")[2])
            if entry is None or not wanted(name, key):  # a folder, or what is refused
                yield from one(name)
            else:
                yield Found(fs, entry, True)


def _listing(fs: Any, folder: str, patience: float) -> Iterator[Entry]:
    """The objects directly in a folder. Gives up each description as it goes: of a million, they fill memory."""
    infos = patiently(lambda: fs.ls(folder, detail=True), patience, folder, True)
    fs.invalidate_cache()
    infos = list(reversed(infos))
    while infos:
        info = infos.pop()
        if info["type"] == "file":
            yield Entry.of(fs.unstrip_protocol(info["name"]), info)


def expanded(url: str, exists: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
    """The names that a brace range stands for. A part of the path that exists as it is written is a name."""
    if "{" not in url:
        return iter([url])
    parts = url.replace("\\", "\\\\").split("/")
    for i, part in enumerate(parts):
        if ("{" in part or "}" in part) and exists("/".join(url.split("/")[: i + 1])):
            parts[i] = re.sub(r"([{},])", r"\\\1", part)
    names = iter(braceexpand.braceexpand("/".join(parts)))
    try:
        return itertools.chain([next(names)], names)
    except ValueError:  # a brace without its other one
        return iter([url])


def _exists(url: str, storage: dict[str, Any], patience: float) -> bool:
    """Whether something lies there under that very name; of a store in trouble this is said when it is read."""
    fs, path = filesystem(url, storage)
    with suppress(Exception):  # every store's client has exceptions of its own
        return not is_web(fs) and bool(call(fs, "exists", path, patience=patience))
    return False


def _list(fs: Any, path: str, url: str, patience: float, key: str) -> Iterator[Found]:
    """What is below a folder (recursively), the matches of a glob, or one file; sorted."""
    if not is_web(fs) and any(sign in path for sign in SIGNS) and not fs.exists(path):
        there, pattern = _literal(fs, path)
        if any("**" in part and part != "**" for part in pattern.split("/")):
            raise UserError(f"dataset.url={hide(url)}: ** stands for folders and their folders: write **/*.jpg")
        found = fs.glob(SIGN.sub(r"[\1]", there) + pattern, detail=True)
        if is_local(fs):  # fsspec does not go through links to folders
            found |= dict(_through_links(fs, there.rstrip("/"), pattern.rstrip("/"), key))
        asked = [part for part in pattern.split("/") if hidden(part)]
        found = {name: info for name, info in found.items() if not _hidden_but(name[len(there) :], asked)}
        if not found:
            raise NoMatch(url)
        taken: set[str] = set()  # `**` fits a folder and what is in it
        for name in sorted(found):
            info = found.pop(name)
            if info["type"] == "directory":
                inside = [] if is_local(fs) and _leads_back(name) else list(below(fs, name, key))
            elif info["type"] == "file" and _taken(name, key):  # a .txt is a list only where the user names it
                inside = [Found(fs, Entry.of(fs.unstrip_protocol(name), info))]
            else:
                continue
            yield from (its for its in inside if its.entry.name not in taken)
            taken |= {its.entry.name for its in inside}
        return
    path = straight(path) if is_local(fs) else path
    info = call(fs, "info", path, patience=patience)
    if info["type"] == "directory":
        yield from below(fs, path, key)
    elif info["type"] == "file" and (wanted(path, key) or ending(path).endswith(".txt")):
        yield Found(fs, Entry.of(fs.unstrip_protocol(path), info), True)
    elif info["size"] == 0 and not is_web(fs) and (inside := list(below(fs, path, key))):
        yield from inside  # an object that stands for a folder
    else:
        hint = "; a website does not list its folders: give names, or a .txt of them" if is_web(fs) else ""
        raise UserError(f"dataset.url={hide(url)}: not a kind of file that holds images; expected {ACCEPTED}{hint}")


def _hidden_but(path: str, asked: Sequence[str]) -> bool:
    """Whether a path has hidden parts beside those that a pattern asks for."""
    parts = path.split("/")
    return any(hidden(part) and not any(fnmatchcase(part, pattern) for pattern in asked) for part in parts)


def straight(path: str) -> str:
    """An absolute local path without `.` and `..`: behind a link, `..` is the folder that its target lies in."""
    head, up, tail = f"{path}/".rpartition("/../")
    return posixpath.normpath(f"{os.path.realpath(f'{head}/..')}/{tail}" if up else path)


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    above = os.path.realpath(folder.rpartition("/")[0] or "/")
    return f"{above}/".startswith(f"{os.path.realpath(folder)}/")


def _through_links(fs: Any, root: str, pattern: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What fits a pattern below a local folder, a part of the path at a time."""
    part, _, rest = pattern.partition("/")
    if "**" in pattern:
        fits = re.compile(fsspec.utils.glob_translate(pattern)).match
        yield from ((name, info) for name, info in _walk(fs, root, key).items() if fits(name[len(root) + 1 :]))
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


def _literal(fs: Any, path: str) -> tuple[str, str]:
    """The longest part of a path that exists as it is written, and the rest, which begins with a pattern."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if any(sign in part for sign in SIGNS) and not fs.exists("/".join(parts[: i + 1])):
            return "".join(f"{before}/" for before in parts[:i]), "/".join(parts[i:])
    return path, ""


def below(fs: Any, path: str, key: str) -> Iterator[Found]:
    """Images and archives below a folder, those that cannot be read too, but nothing hidden; by name."""
    found = _walk(fs, path, key) if is_local(fs) else fs.find(path, detail=True)
    fs.invalidate_cache()
    for name in sorted(found):
        info = found.pop(name)
        if info["type"] == "file" and _taken(name, key) and not hidden(name[len(path) :]):
            yield Found(fs, Entry.of(fs.unstrip_protocol(name), info))


def _taken(name: str, key: str) -> bool:
    return wanted(name, key) or ending(name).endswith(UNREADABLE)


def _walk(fs: Any, path: str, key: str) -> dict[str, dict[str, Any]]:
    """Files below a local folder, hidden folders left out; an unreadable folder is an error, not a gap.

    Links to folders are followed when all folders without links are done, and each folder is entered once: so loops
    end, and a file has the name that leads to it without links.
    """
    found: dict[str, dict[str, Any]] = {}
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
                elif _taken(entry.name, key):
                    found[name] = _info(fs, name)
    return found


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
    except OSError:  # a link to nowhere, or to itself: counted as missing when it is read
        return {"type": "file", "size": ABSENT}


def once(found: Sequence[Found]) -> list[Found]:
    """The same objects; of local files that symbolic links give several names one keeps its size: the name without
    links, or else the first. The others become `SAME`. Hard links and copies are files of their own."""
    real, folders, by_link = dict[str, str](), dict[str, str](), list[int]()
    for i, (fs, entry, _) in enumerate(found):
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
    result = list(found)
    for i in by_link:
        fs, entry, named = found[i]
        path = os.path.realpath(fs._strip_protocol(entry.name))
        if real.setdefault(path, entry.name) != entry.name:
            result[i] = Found(fs, Entry(entry.name, SAME, ""), named)
    return result
