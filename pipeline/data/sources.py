"""From what the user names to shards: tars, zips, Parquet files, folders, lists of paths.

    shards = find("s3://bucket/laion/{00000..00099}.tar")
    shards = find("photos/")                  # every image below the folder, in groups

Everything becomes a `Shard`, the unit that a ledger records and a task is made of.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import braceexpand
import fsspec
import pyarrow

from extractors.web import known
from pipeline.data.indexed import open_parquet, open_zip
from pipeline.data.names import archive, ending, hidden, is_image, wanted
from pipeline.data.shards import ABSENT, UNKNOWN, Shard
from pipeline.errors import UserError
from pipeline.objects import (
    PATIENCE,
    call,
    filesystem,
    hide,
    is_local,
    is_web,
    open_object,
    patiently,
    unsigned,
    version,
)

ACCEPTED = "a folder of images, .tar, .tar.gz, .zip, .parquet, an image, or a .txt of paths"

SIGNS = "*?["
SIGN = re.compile(r"([*?[])")

MANY = 32
"""Names in one folder from which on it is listed, and requests for single names that are under way at once."""


def find(
    urls: str | Iterable[str],
    images_per_shard: int = 256,
    storage: dict[str, Any] | None = None,
    patience: float = PATIENCE,
) -> list[Shard]:
    """The shards behind one or more paths, globs, brace ranges or URLs, in order of name; `storage` are fsspec options.

    Raises `UserError` if something does not exist or nothing there is an image or an archive of images.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    if not given:
        raise UserError("dataset.url is empty: give a path, glob or URL")
    shards: list[Shard] = []
    single: list[Entry] = []  # loose images named one by one form one group
    for url in given:
        shown = f"dataset.url={hide(url)}"
        if url.startswith("pipe:"):
            raise UserError(f"{shown}: shell commands are not run; name the object itself")
        try:
            for fs, entry in _entries(url, storage or {}, patience):
                if is_image(entry.name):
                    single.append(entry)
                elif ending(entry.name).endswith(".txt"):
                    single.extend(_lines(fs, entry.name, storage or {}, patience))
                else:
                    shards.extend(_archive(fs, entry, images_per_shard, patience))
        except UserError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise UserError(hide(f"{shown}: nothing is there{cause or f' ({error})' * ('{' in url)}")) from None
        except PermissionError as error:
            raise UserError(hide(f"{shown}: no permission to read it ({error}); check the credentials")) from None
        except UnicodeDecodeError:
            raise UserError(f"{shown}: a list of paths must be UTF-8 text") from None
        except Exception as error:  # every store's client has exceptions of its own
            said = known(error) or f"cannot be reached ({type(error).__name__}: {error})"
            raise UserError(hide(f"{shown}: {said}")) from error
    shards.extend(_groups(single, images_per_shard))
    if not shards:
        raise UserError(hide(f"dataset.url={', '.join(map(str, given))}: no image found; expected {ACCEPTED}"))
    names = [(unsigned(entry.name)[0], "") for entry in single]
    _refuse_repetition([*((s.url, s.part) for s in shards if s.kind != "files"), *names])
    return shards


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


def _entries(url: str, storage: dict[str, Any], patience: float) -> Iterator[tuple[Any, Entry]]:
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


def _refuse_repetition(names: Iterable[tuple[str, str]]) -> None:
    repeated = [name for (name, _), count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"dataset.url: {hide(repeated[0])} is named more than once ({len(repeated)} such); "
            "an image counts once, so remove the repetition"
        )


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


def _lines(fs: Any, name: str, storage: dict[str, Any], patience: float) -> Iterator[Entry]:
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


def _archive(fs: Any, entry: Entry, images_per_shard: int, patience: float) -> Iterator[Shard]:
    kind = archive(entry.name) or ""
    url, signing = unsigned(entry.name)
    keys = (signing,) if signing else ()
    if kind == "tar":
        yield Shard(kind, url, entry.size, entry.version, signing=keys)
        return
    path, info = fs._strip_protocol(entry.name), {"size": None if entry.size < 0 else entry.size}
    try:
        with open_object(fs, path, info, patience) as file:
            members = _zip_members(file) if kind == "zip" else _row_groups(file)
    except (zipfile.BadZipFile, pyarrow.ArrowInvalid):
        yield Shard(kind, url, entry.size, entry.version, signing=keys)  # reading it will record the damage
        return
    step = images_per_shard if kind == "zip" else 1
    for start in range(0, len(members), step):
        part = tuple(members[start : start + step])
        share = entry.size * len(part) // len(members)
        yield Shard(kind, url, share, entry.version, f"{start}:{start + len(part)}", part, signing=keys)


def _zip_members(file: Any) -> list[str]:
    names = {info.filename for info in open_zip(file).infolist() if not info.is_dir()}
    return sorted(n for n in names if is_image(n) and not hidden(n))


def _row_groups(file: Any) -> list[str]:
    return [str(index) for index in range(open_parquet(file).num_row_groups)]


def _groups(files: Sequence[Entry], images_per_shard: int) -> Iterator[Shard]:
    """Loose image files in groups, named by their common folder."""
    for start in range(0, len(files), images_per_shard):
        part = files[start : start + images_per_shard]
        names, signing = zip(*(unsigned(entry.name) for entry in part), strict=True)
        etag = group_version([Entry(name, e.size, e.version) for name, e in zip(names, part, strict=True)])
        size = sum(max(entry.size, 0) for entry in part)
        folder = names[0].rpartition("/")[0]
        while folder and any(not name.startswith(f"{folder}/") for name in names):
            folder = folder.rpartition("/")[0]
        # Named by its members: groups of other files in the same folder are other shards.
        part_name = f"{len(part)} files {hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]}"
        sizes = tuple(entry.size for entry in part)
        keys = signing if any(signing) else ()
        yield Shard("files", folder or names[0], size, etag, part_name, names, sizes, keys)


def group_version(entries: Sequence[Entry]) -> str:
    """One version for a group of files, by their names, sizes and versions."""
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:32]


def public(urls: str | Sequence[str]) -> str | list[str]:
    """What a catalogue may say of where a dataset is: nothing that signs it."""
    if isinstance(urls, str) and not ("?" in urls and "{" in urls):
        return unsigned(urls)[0]
    given = [urls] if isinstance(urls, str) else urls
    return [unsigned(name)[0] for url in given for name in ([url] if "?" not in url else braceexpand.braceexpand(url))]
