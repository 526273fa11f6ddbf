"""What a path, URL, pattern, brace range or list leads to: objects, by name.

    for fs, entry in entries("photos/*.jpg", {}, 120):
        entry.name, entry.size, entry.version

Names that are found by listing are data: nothing in them is a sign.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import braceexpand
import fsspec

from pipeline.data.names import ending, hidden, wanted
from pipeline.data.shards import ABSENT, UNKNOWN
from pipeline.errors import UserError
from pipeline.objects import call, filesystem, hide, is_local, is_web, patiently, version

ACCEPTED = "a folder of images, .tar, .tar.gz, .zip, .parquet, an image, or a .txt of paths"

SIGNS = "*?["
SIGN = re.compile(r"([*?[])")

MANY = 32
"""Names in one folder from which on it is listed, and requests for single names that are under way at once."""


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


def entries(url: str, storage: dict[str, Any], patience: float) -> Iterator[tuple[Any, Entry]]:
    """What a path, URL, glob or brace range leads to, in order, with its file system."""
    names = [url] if _exists_as_is(url) else braceexpand.braceexpand(url)
    for folder, its in itertools.groupby(names, key=lambda name: name.rpartition("/")[0]):
        several = list(its)
        fs, first = filesystem(several[0], storage)
        if len(several) < MANY or any(sign in folder for sign in SIGNS) or "://" not in url:
            for name in several:
                fs, path = filesystem(name, storage)
                found = patiently(partial(_listed, fs, path, name, patience), patience, name, True)
                yield from ((fs, entry) for entry in found)
            continue
        # A request for each of a million shards would take hours; the folder lists a thousand at a time.
        there = {entry.name.rpartition("/")[2]: entry for entry in _listing(fs, first.rpartition("/")[0], patience)}
        for name in several:
            entry = there.get(name.rpartition("/")[2])
            if entry is None:
                raise FileNotFoundError(name)
            yield fs, entry


def _listing(fs: Any, folder: str, patience: float) -> Iterator[Entry]:
    """The objects directly in a folder. Gives up each description as it goes: of a million, they fill memory."""
    infos = patiently(lambda: fs.ls(folder, detail=True), patience, folder, True)
    fs.invalidate_cache()
    infos = list(reversed(infos))
    while infos:
        info = infos.pop()
        yield Entry.of(fs.unstrip_protocol(info["name"]), info)


def _exists_as_is(url: str) -> bool:
    """A local name may contain braces; only what does not exist is expanded."""
    return "{" not in url or ("://" not in url and fsspec.filesystem("file").exists(url))


def _listed(fs: Any, path: str, url: str, patience: float) -> list[Entry]:
    return list(_list(fs, path, url, patience))


def _list(fs: Any, path: str, url: str, patience: float) -> Iterator[Entry]:
    """What is below a folder (recursively), the matches of a glob, or one file; sorted."""
    if not is_web(fs) and any(sign in path for sign in SIGNS) and not fs.exists(path):
        there, pattern = _literal(fs, path)
        found = fs.glob(SIGN.sub(r"[\1]", there) + pattern, detail=True)
        asks = any(hidden(part) for part in pattern.split("/"))
        found = {name: info for name, info in found.items() if asks or not hidden(name[len(there) :])}
        if not found:
            raise UserError(f"dataset.url={hide(url)}: the pattern matches nothing")
        taken: set[str] = set()  # `**` fits a folder and what is in it
        for name in sorted(found):
            info = found.pop(name)
            if info["type"] == "directory":
                for entry in _below(fs, name):
                    if entry.name not in taken:
                        taken.add(entry.name)
                        yield entry
            elif info["type"] == "file" and wanted(name):  # a .txt is a list only where the user names it
                entry = Entry.of(fs.unstrip_protocol(name), info)
                if entry.name not in taken:
                    taken.add(entry.name)
                    yield entry
        return
    path = posixpath.normpath(path) if is_local(fs) else path
    info = call(fs, "info", path, patience=patience)
    if info["type"] == "directory":
        yield from _below(fs, path)
    elif info["type"] == "file" and (wanted(path) or ending(path).endswith(".txt")):
        yield Entry.of(fs.unstrip_protocol(path), info)
    else:
        raise UserError(f"dataset.url={hide(url)}: not a kind of file that holds images; expected {ACCEPTED}")


def _literal(fs: Any, path: str) -> tuple[str, str]:
    """The longest part of a path that exists as it is written, and the rest, which begins with a pattern."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if any(sign in part for sign in SIGNS) and not fs.exists("/".join(parts[: i + 1])):
            return "".join(f"{before}/" for before in parts[:i]), "/".join(parts[i:])
    return path, ""


def _below(fs: Any, path: str) -> Iterator[Entry]:
    found = _walk(fs, path) if is_local(fs) else fs.find(path, detail=True)
    fs.invalidate_cache()
    for name in sorted(found):
        info = found.pop(name)
        if info["type"] == "file" and wanted(name) and not hidden(name[len(path) :]):
            yield Entry.of(fs.unstrip_protocol(name), info)


def _walk(fs: Any, path: str) -> dict[str, dict[str, Any]]:
    """Files below a local folder, through links to folders; an unreadable folder is an error, not a gap."""

    def unreadable(error: OSError) -> None:
        raise error

    found: dict[str, dict[str, Any]] = {}
    visited: set[str] = set()
    for folder, folders, files in os.walk(path, onerror=unreadable, followlinks=True):
        visited.add(os.path.realpath(folder))
        folders.sort(key=lambda f: (Path(folder, f).is_symlink(), f))
        folders[:] = [f for f in folders if _first(os.path.realpath(f"{folder}/{f}"), visited)]
        for name in (f"{folder}/{f}" for f in files if wanted(f)):
            try:
                found[name] = fs.info(name)
            except FileNotFoundError:  # a link to nowhere: counted as missing when it is read
                found[name] = {"type": "file", "size": ABSENT}
    return found


def _first(path: str, visited: set[str]) -> bool:
    new = path not in visited
    visited.add(path)
    return new


def lines(fs: Any, name: str, storage: dict[str, Any], patience: float) -> Iterator[Entry]:
    """The paths or URLs in a text file, one a line, relative to the file; missing ones are found when read."""
    path = fs._strip_protocol(name)
    data = patiently(lambda: call(fs, "cat_file", path, patience=patience), patience, name, True)
    # Only a line feed ends a line: other separators may be part of a name. Some editors begin with a byte order mark.
    lines = [line.removesuffix("\r") for line in data.decode("utf-8-sig").split("\n")]

    def entry(line: str) -> Entry:
        its, path = (fs, f"{fs._strip_protocol(name.rpartition('/')[0])}/{line}")
        if "://" in line or line.startswith("/"):
            its, path = filesystem(line, storage)
            if is_local(its) and not is_local(fs):
                raise UserError(f"{hide(name)} names {line}: a list from elsewhere must not name files of this machine")
        path = posixpath.normpath(path) if is_local(its) else path
        try:
            info = patiently(lambda: call(its, "info", path, patience=patience), patience, path, True)
        except FileNotFoundError:
            return Entry(its.unstrip_protocol(path), ABSENT, "")
        return Entry.of(its.unstrip_protocol(path), info)

    with ThreadPoolExecutor(MANY) as asking:
        yield from asking.map(entry, filter(None, (line.strip(" \t") for line in lines)))
