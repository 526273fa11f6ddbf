"""Reading lists of paths: text files with the name of an image, an archive or a folder in each line.

    for listed in lines(fs, "s3://bucket/list.txt", {}, 120):
        listed.entry

A name is taken literally, and is relative to the folder of the list. Blank lines are skipped, and so are lines that
begin with `#`, unless there is a file of that name.
"""

from __future__ import annotations

import codecs
import logging
import posixpath
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pipeline.data import names
from pipeline.data.listing import MAX_REQUESTS, Entry, Listed, absolute, list_below
from pipeline.data.names import DESCRIPTIONS, archive_kind, hidden, is_image, is_url, is_wanted, lowered, with_slashes
from pipeline.data.shards import ABSENT
from pipeline.errors import UserError
from pipeline.storage.faults import IMPOSSIBLE_PATH
from pipeline.storage.objects import call, filesystem, is_local, is_web, retry
from pipeline.storage.urls import redact

log = logging.getLogger(__name__)
BLANKS = " \t"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def lines(fs: Any, name: str, storage: dict[str, Any], patience: float, key: str = "") -> Iterator[Listed]:
    """The objects that the lines of a list name. A missing image is reported when it is read.

    Raises `FileNotFoundError` for a missing archive. Raises `UserError` if the list is no text, or if it comes from
    another machine and names files of this one.
    """
    data = retry(lambda: call(fs, "cat_file", fs._strip_protocol(name), patience=patience), patience, name, True)
    text = data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
    if "\0" in text:
        raise UserError(f"{redact(name)}: a list of paths must be UTF-8 text, or UTF-16 with its byte order mark")
    # Only a line feed ends a line: other line separators may be part of a name.
    filled = [line for line in (line.removesuffix("\r") for line in text.split("\n")) if line.strip(BLANKS)]
    omitted = left_out(filled, key)
    if omitted:
        what = f"{len(omitted)} hidden file(s) or files that describe images, which are left out: {next(iter(omitted))}"
        log.warning("%s", redact(f"{name} names {what}"))

    def resolve(line: str) -> list[Listed]:
        return list(_list_line(fs, name, line, storage, patience, key))

    with ThreadPoolExecutor(MAX_REQUESTS) as threads:
        yield from chain.from_iterable(threads.map(resolve, (line for line in filled if line not in omitted)))


def left_out(lines: Iterable[str], key: str) -> Collection[str]:
    """The lines, in order, that name files which a listing of folders leaves out: hidden files, and files that describe
    images.

    A hidden folder counts only if the list also names files elsewhere in the folder above it: a whole dataset may lie
    below `~/.cache`.
    """
    paths = {line: _plain(line) for line in lines}
    shown = {folder for path in paths.values() for folder, name in _steps(path) if not hidden(name)}
    return dict.fromkeys(line for line, path in paths.items() if _is_left_out(path, shown, key))


def _plain(line: str) -> str:
    """A line without blanks around it, with slashes, and without percent-encoding if it is a web URL."""
    line = with_slashes(line.strip(BLANKS))
    return unquote(line) if names.is_web(line) else line


def _steps(line: str) -> Iterator[tuple[str, str]]:
    """Each name in a path, after the folder that it lies in."""
    parts = line.split("/")
    return (("/".join(parts[:depth]), name) for depth, name in enumerate(parts))


def _is_left_out(line: str, shown: Collection[str], key: str) -> bool:
    if lowered(line).endswith(DESCRIPTIONS) and not (key and is_image(line, key)):
        return True
    return hidden(line.rpartition("/")[2]) or any(folder in shown and hidden(name) for folder, name in _steps(line))


def _list_line(fs: Any, name: str, line: str, storage: dict[str, Any], patience: float, key: str) -> Iterator[Listed]:
    """The objects that a line names: literally, without the blanks around it, or with slashes for backslashes."""
    bare = line.strip(BLANKS)
    tries = dict.fromkeys(chain.from_iterable(_places(fs, name, text, storage) for text in (line, bare)))
    if "\\" in bare:
        tries |= dict.fromkeys(_places(fs, name, bare.replace("\\", "/"), storage))
    places = list(tries)
    for place_fs, path in places:
        if is_web(place_fs) and path.endswith("/"):
            raise UserError(
                f"{redact(name)} names {redact(bare)}: a website does not list its folders; name what is there"
            )
        info = _info(place_fs, path, patience)
        if info is None:
            continue
        if info["type"] == "directory":
            yield from list_below(place_fs, path, key)
        elif info["type"] == "file" and key and not is_wanted(path, key):
            pass
        elif info["type"] == "file":
            yield Listed(place_fs, Entry.of(place_fs.unstrip_protocol(path), info))
        else:
            raise UserError(f"{redact(name)} names {redact(bare)}, which is neither a file nor a folder")
        return
    if bare.startswith("#"):
        return
    place_fs, path = places[0] if bare == line else next(iter(_places(fs, name, bare, storage)))
    if archive_kind(path):
        raise FileNotFoundError(f"{path}, which {name} names")
    if not key or is_image(path, key):
        yield Listed(place_fs, Entry(place_fs.unstrip_protocol(path), ABSENT, ""))


def _info(fs: Any, path: str, patience: float) -> dict[str, Any] | None:
    """The store's description of an object, or None if it does not exist."""
    try:
        info: dict[str, Any] = retry(partial(call, fs, "info", path, patience=patience), patience, path, True)
        return info
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in IMPOSSIBLE_PATH:
            return None
        raise


def _places(fs: Any, name: str, line: str, storage: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """The file systems and paths that a line may name.

    In the list of a website, a line is first taken for a literal name. If it contains `%` or `?`, it is then taken for
    a part of a URL.
    """
    if line.startswith("~/") and is_local(fs):
        line = str(Path(line).expanduser())
    if is_url(line) or line.startswith("/"):
        line_fs, path = filesystem(line, storage)
        if is_local(line_fs) and not is_local(fs):
            raise UserError(f"{redact(name)} names {line}: a list from elsewhere must not name files of this machine")
        yield line_fs, absolute(path) if is_local(line_fs) else path.partition("#")[0] if is_web(line_fs) else path
        return
    if is_web(fs):
        folder = name.partition("?")[0].rpartition("/")[0]
        yield fs, _resolved(f"{folder}/{quote(line)}", 3)
        if "%" in line or "?" in line:
            yield fs, f"{folder}/{line}"
        return
    path = f"{fs._strip_protocol(name.rpartition('/')[0])}/{line}"
    yield fs, absolute(path) if is_local(fs) else _resolved(path, 1)


def _resolved(path: str, fixed: int) -> str:
    """A path of a remote store without `.` and `..`. The first `fixed` parts, the host or the bucket, stay."""
    parts = path.split("/", fixed)
    if not {".", ".."} & set(parts[-1].split("/")):
        return path
    return "/".join([*parts[:-1], posixpath.normpath(f"/{parts[-1]}").lstrip("/")])
