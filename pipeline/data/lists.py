"""The names in a text file that the user named: a line each, of an image, an archive or a folder.

    for found in lines(fs, "s3://bucket/list.txt", {}, 120):
        found.entry

A line is a name and no pattern, relative to the list's folder. Blank lines, and lines that begin with `#`, are left
out, unless there is such a file.
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
from pipeline.data.listing import MANY, Entry, Found, below, straight
from pipeline.data.names import DESCRIPTIONS, archive, ending, hidden, is_image, is_url, turned, wanted
from pipeline.data.shards import ABSENT
from pipeline.errors import UserError
from pipeline.storage.faults import NOWHERE
from pipeline.storage.objects import call, filesystem, is_local, is_web, patiently
from pipeline.storage.urls import redact

log = logging.getLogger(__name__)
BLANKS = " \t"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def lines(fs: Any, name: str, storage: dict[str, Any], patience: float, key: str = "") -> Iterator[Found]:
    """What the lines lead to; images that are not there are found when they are read.

    Raises `FileNotFoundError` for an archive that is not there, and `UserError` for a list from elsewhere that names
    files of this machine.
    """
    data = patiently(lambda: call(fs, "cat_file", fs._strip_protocol(name), patience=patience), patience, name, True)
    text = data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
    if "\0" in text:
        raise UserError(f"{redact(name)}: a list of paths must be UTF-8 text, or UTF-16 with its byte order mark")
    # Only a line feed ends a line: other separators may be part of a name.
    given = [line.removesuffix("\r") for line in text.split("\n")]
    wanted = [line for line in given if line.strip(BLANKS)]
    left = left_out(wanted, key)
    if left:
        what = f"{len(left)} hidden file(s) or files that describe images, which are left out: {next(iter(left))}"
        log.warning("%s", redact(f"{name} names {what}"))

    def found(line: str) -> list[Found]:
        return list(_found(fs, name, line, storage, patience, key))

    with ThreadPoolExecutor(MANY) as asking:
        yield from chain.from_iterable(asking.map(found, (line for line in wanted if line not in left)))


def left_out(lines: Iterable[str], key: str) -> Collection[str]:
    """The lines, in their order, that name what folders would leave out: hidden files, and those that describe images.

    A folder counts as hidden where it lies in one from which the list names other files: all of a dataset may lie below
    `~/.cache`.
    """
    plain = {line: _plain(line) for line in lines}
    shown = {folder for its in plain.values() for folder, name in _steps(its) if not hidden(name)}
    return dict.fromkeys(line for line, its in plain.items() if _is_left(its, shown, key))


def _plain(line: str) -> str:
    """A line to be judged: without blanks around it, with separators turned, of a URL without percent signs."""
    line = turned(line.strip(BLANKS))
    return unquote(line) if names.is_web(line) else line


def _steps(line: str) -> Iterator[tuple[str, str]]:
    """Each name in a path, and the folder that it lies in."""
    parts = line.split("/")
    return (("/".join(parts[:depth]), name) for depth, name in enumerate(parts))


def _is_left(line: str, shown: Collection[str], key: str) -> bool:
    if ending(line).endswith(DESCRIPTIONS) and not (key and is_image(line, key)):
        return True
    return hidden(line.rpartition("/")[2]) or any(folder in shown and hidden(name) for folder, name in _steps(line))


def _found(fs: Any, name: str, line: str, storage: dict[str, Any], patience: float, key: str) -> Iterator[Found]:
    """What a line leads to: as it is, without the blanks around it, or with the separators of Windows turned."""
    bare = line.strip(BLANKS)
    tries = dict.fromkeys(chain.from_iterable(_places(fs, name, text, storage) for text in (line, bare)))
    if "\\" in bare:
        tries |= dict.fromkeys(_places(fs, name, bare.replace("\\", "/"), storage))
    places = list(tries)
    for its, path in places:
        if is_web(its) and path.endswith("/"):
            raise UserError(
                f"{redact(name)} names {redact(bare)}: a website does not list its folders; name what is there"
            )
        info = _info(its, path, patience)
        if info is None:
            continue
        if info["type"] == "directory":
            yield from below(its, path, key)
        elif info["type"] == "file" and key and not wanted(path, key):
            pass
        elif info["type"] == "file":
            yield Found(its, Entry.of(its.unstrip_protocol(path), info))
        else:
            raise UserError(f"{redact(name)} names {redact(bare)}, which is neither a file nor a folder")
        return
    if bare.startswith("#"):
        return
    its, path = places[0] if bare == line else next(iter(_places(fs, name, bare, storage)))
    if archive(path):
        raise FileNotFoundError(f"{path}, which {name} names")
    if not key or is_image(path, key):
        yield Found(its, Entry(its.unstrip_protocol(path), ABSENT, ""))


def _info(fs: Any, path: str, patience: float) -> dict[str, Any] | None:
    """What a store says of an object; None if it is not there."""
    try:
        info: dict[str, Any] = patiently(partial(call, fs, "info", path, patience=patience), patience, path, True)
        return info
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in NOWHERE:
            return None
        raise


def _places(fs: Any, name: str, line: str, storage: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Where a line may lead. On a website it is a name first, and then, where it could be one, a part of a URL."""
    if line.startswith("~/") and is_local(fs):
        line = str(Path(line).expanduser())
    if is_url(line) or line.startswith("/"):
        its, path = filesystem(line, storage)
        if is_local(its) and not is_local(fs):
            raise UserError(f"{redact(name)} names {line}: a list from elsewhere must not name files of this machine")
        yield its, straight(path) if is_local(its) else path.partition("#")[0] if is_web(its) else path
        return
    if is_web(fs):
        folder = name.partition("?")[0].rpartition("/")[0]
        yield fs, _resolved(f"{folder}/{quote(line)}", 3)
        if "%" in line or "?" in line:
            yield fs, f"{folder}/{line}"
        return
    path = f"{fs._strip_protocol(name.rpartition('/')[0])}/{line}"
    yield fs, straight(path) if is_local(fs) else _resolved(path, 1)


def _resolved(path: str, fixed: int) -> str:
    """A path of a store without `.` and `..`, which its objects' names have not. The first parts, its host or bucket,
    stay."""
    parts = path.split("/", fixed)
    if not {".", ".."} & set(parts[-1].split("/")):
        return path
    return "/".join([*parts[:-1], posixpath.normpath(f"/{parts[-1]}").lstrip("/")])
