"""From what the user names to shards: tars, zips, Parquet files, folders, lists of paths.

    shards = find("s3://bucket/laion/{00000..00099}.tar")
    shards = find("photos/")                  # every image below the folder, in groups
    tasks = group(shards, 4)                  # four shards to a task, the last may have fewer

Everything becomes a `Shard`, the unit that a ledger records and a task is made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import braceexpand
import fsspec
import fsspec.core
import pyarrow
import pyarrow.parquet

from pipeline.errors import UserError

IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm"),
    *(".avif", ".jp2", ".heic", ".heif"),
)
"""Endings by which a file counts as an image; one that cannot be decoded (HEIC) is skipped with its reason."""

ARCHIVES = {".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".zip": "zip", ".parquet": "parquet"}
ACCEPTED = "a folder of images, .tar, .tar.gz, .zip, .parquet, an image, or a .txt of paths"


VERSIONS = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "blob_id"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "created"),
)
"""Where stores say which version of an object they hold, content before clock."""


@dataclass(frozen=True)
class Shard:
    """A piece of a dataset that is read from start to end.

    `kind` is tar, zip, parquet or files. `url` is the object, or the folder of a group of files;
    `members` are file names, zip members or row groups, empty for a whole archive; `part` names them.
    `size` in bytes, -1 where the store does not say; `etag` is the store's version of the content.
    """

    kind: str
    url: str
    size: int
    etag: str
    part: str = ""
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A fixed group of shards. `id` hashes them, so a task keeps its partial when a dataset grows.

    `storage` are the fsspec options to read them with; they are no part of the id and are never stored.
    """

    index: int
    shards: tuple[Shard, ...]
    storage: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes of the shards, as far as the store says."""
        return sum(max(shard.size, 0) for shard in self.shards)

    @property
    def id(self) -> str:
        # Members are in the etag of a group of files; naming them again would only cost time.
        keys = [(s.kind, s.url, s.part, s.size, s.etag) for s in self.shards]
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]


def group(shards: Sequence[Shard], shards_per_task: int, storage: Mapping[str, Any] | None = None) -> list[Task]:
    """Consecutive shards in groups of a fixed size: the same tasks on any number of machines."""
    starts = range(0, len(shards), shards_per_task)
    groups = (tuple(shards[start : start + shards_per_task]) for start in starts)
    return [Task(index, members, storage or {}) for index, members in enumerate(groups)]


def find(urls: str | Iterable[str], images_per_shard: int = 256, storage: dict[str, Any] | None = None) -> list[Shard]:
    """The shards behind one or more paths, globs, brace ranges or URLs, in order of name.

    `storage` are fsspec options (endpoint, anonymous access, …). Raises `UserError` if something
    does not exist or nothing there is an image or an archive of images.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    if not given:
        raise UserError("dataset.url is empty: give a path, glob or URL")
    expanded = [name for url in given for name in ([url] if _exists_as_is(url) else braceexpand.braceexpand(url))]
    shards: list[Shard] = []
    single: list[tuple[str, dict[str, Any]]] = []  # loose images named one by one form one group
    for url in expanded:
        if url.startswith("pipe:"):
            raise UserError(f"dataset.url={url}: shell commands are not run; name the object itself")
        try:
            fs, path = fsspec.core.url_to_fs(url, **(storage or {}))
            for name, info in _list(fs, path, url):
                if _ending(name).endswith(IMAGES):
                    single.append((fs.unstrip_protocol(name), info))
                elif _ending(name).endswith(".txt"):
                    single.extend(_lines(fs, name, storage or {}))
                else:
                    shards.extend(_archive(fs, name, info, images_per_shard))
        except UserError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise UserError(f"dataset.url={url}: nothing is there{cause}") from None
        except PermissionError as error:
            raise UserError(f"dataset.url={url}: no permission to read it ({error}); check the credentials") from None
        except UnicodeDecodeError:
            raise UserError(f"dataset.url={url}: a list of paths must be UTF-8 text") from None
        except (ImportError, ValueError) as error:
            raise UserError(f"dataset.url={url}: cannot open this kind of URL ({error})") from None
        except Exception as error:  # every store's client has exceptions of its own
            raise UserError(f"dataset.url={url}: cannot be reached ({type(error).__name__}: {error})") from error
    shards.extend(_groups(single, images_per_shard))
    if not shards:
        raise UserError(f"dataset.url={', '.join(map(str, given))}: no image found; expected {ACCEPTED}")
    _refuse_repetition([*((s.url, s.part) for s in shards if s.kind != "files"), *((n, "") for n, _ in single)])
    return shards


def _refuse_repetition(names: Iterable[tuple[str, str]]) -> None:
    repeated = [name for (name, _), count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"dataset.url: {repeated[0]} is named more than once ({len(repeated)} such); "
            "an image counts once, so remove the repetition"
        )


def _exists_as_is(url: str) -> bool:
    """A local name may contain braces; only what does not exist is expanded."""
    return "{" not in url or ("://" not in url and fsspec.filesystem("file").exists(url))


def _list(fs: Any, path: str, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and file infos below a folder (recursively), of a glob's matches, or of one file; sorted."""
    if any(sign in path for sign in "*?[") and not fs.exists(path):
        found = fs.glob(path, detail=True)
        if not found:
            raise UserError(f"dataset.url={url}: the pattern matches nothing")
        for name, info in sorted(found.items()):
            if info["type"] == "directory":
                yield from _below(fs, name)
            elif info["type"] == "file" and (_wanted(name) or _ending(name).endswith(".txt")):
                yield name, info
        return
    path = posixpath.normpath(path) if _is_local(fs) else path
    info = fs.info(path)
    if info["type"] == "directory":
        yield from _below(fs, path)
    elif info["type"] == "file" and (_wanted(path) or _ending(path).endswith(".txt")):
        yield path, info
    else:
        raise UserError(f"dataset.url={url}: not a kind of file that holds images; expected {ACCEPTED}")


def _below(fs: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    found = _walk(fs, path) if _is_local(fs) else fs.find(path, detail=True)
    for name, info in sorted(found.items()):
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in name[len(path) :].split("/"))
        if info["type"] == "file" and _wanted(name) and not hidden:
            yield name, info


def _walk(fs: Any, path: str) -> dict[str, dict[str, Any]]:
    """Files below a local folder, through links to folders; an unreadable folder is an error, not a gap."""

    def unreadable(error: OSError) -> None:
        raise error

    found: dict[str, dict[str, Any]] = {}
    visited: set[str] = set()
    for folder, folders, files in os.walk(path, onerror=unreadable, followlinks=True):
        visited.add(os.path.realpath(folder))
        folders[:] = [f for f in folders if os.path.realpath(f"{folder}/{f}") not in visited]
        for name in (f"{folder}/{f}" for f in files if _wanted(f)):
            try:
                found[name] = fs.info(name)
            except FileNotFoundError:  # a link to nowhere: counted as missing when it is read
                found[name] = {"type": "file"}
    return found


def _is_local(fs: Any) -> bool:
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def _ending(name: str) -> str:
    """A name to judge by its ending: lower case, and without the query of a signed URL."""
    return (name.partition("?")[0] if "://" in name else name).lower()


def _wanted(name: str) -> bool:
    return _ending(name).endswith(IMAGES) or _kind(name) is not None


def _kind(name: str) -> str | None:
    return next((kind for ending, kind in ARCHIVES.items() if _ending(name).endswith(ending)), None)


def _lines(fs: Any, name: str, storage: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The paths or URLs in a text file, one a line, relative to the file; missing ones are found when read."""
    folder = name.rpartition("/")[0]
    for line in fs.cat_file(name).decode().splitlines():
        if entry := line.strip():
            if "://" in entry:
                its, path = fsspec.core.url_to_fs(entry, **storage)
            else:
                its, path = fs, entry if entry.startswith("/") else f"{folder}/{entry}"
            path = posixpath.normpath(path) if _is_local(its) else path
            try:
                yield its.unstrip_protocol(path), its.info(path)
            except FileNotFoundError:
                yield its.unstrip_protocol(path), {}


def _archive(fs: Any, name: str, info: dict[str, Any], images_per_shard: int) -> Iterator[Shard]:
    kind, url, size, etag = _kind(name) or "", fs.unstrip_protocol(name), info.get("size"), _version(info)
    size = -1 if size is None else int(size)
    if kind == "tar":
        yield Shard(kind, url, size, etag)
        return
    try:
        with fs.open(name, "rb") as file:
            members = _zip_members(file) if kind == "zip" else _row_groups(file)
    except (zipfile.BadZipFile, pyarrow.ArrowInvalid):
        yield Shard(kind, url, size, etag)  # reading it will record the damage
        return
    step = images_per_shard if kind == "zip" else 1
    for start in range(0, len(members), step):
        part = members[start : start + step]
        share = size * len(part) // len(members)
        yield Shard(kind, url, share, etag, f"{start}:{start + len(part)}", tuple(part))


def _zip_members(file: Any) -> list[str]:
    names = (info.filename for info in zipfile.ZipFile(file).infolist() if not info.is_dir())
    return sorted(n for n in names if n.lower().endswith(IMAGES) and not n.startswith("__MACOSX"))


def _row_groups(file: Any) -> list[str]:
    return [str(index) for index in range(pyarrow.parquet.ParquetFile(file).num_row_groups)]


def _groups(files: Sequence[tuple[str, dict[str, Any]]], images_per_shard: int) -> Iterator[Shard]:
    """Loose image files in groups, named by their common folder."""
    for start in range(0, len(files), images_per_shard):
        part = files[start : start + images_per_shard]
        names = tuple(name for name, _ in part)
        versions = [(name, info.get("size"), _version(info)) for name, info in part]
        etag = hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:32]
        size = sum(int(info.get("size") or 0) for _, info in part)
        folder = names[0].rpartition("/")[0]
        while any(not name.startswith(f"{folder}/") for name in names):
            folder = folder.rpartition("/")[0]
        # Named by its members: groups of other files in the same folder are other shards.
        part_name = f"{len(part)} files {hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]}"
        yield Shard("files", folder or names[0], size, etag, part_name, names)


def _version(info: dict[str, Any]) -> str:
    """The store's version of an object: its ETag or checksum, else the time it was last written."""
    for key in VERSIONS:
        if info.get(key):
            return str(info[key]).strip('"')
    return ""
