"""Finding the shards of a dataset: tars, zips, Parquet files, folders of images, lists of paths.

    shards = find("s3://bucket/laion/{00000..00099}.tar")
    shards = find("photos/")                  # every image below the folder, in groups

A task consists of shards, and the ledger has one record per shard.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow

from extractors.download.web import web_error_behind
from pipeline.data.columns import NoImages, Unclear, image_column
from pipeline.data.indexed import members, open_parquet, open_zip
from pipeline.data.listing import ACCEPTED, Entry, Listed, entries, mark_links
from pipeline.data.lists import lines
from pipeline.data.names import UNREADABLE, archive_kind, hidden, is_image, lowered, with_slashes
from pipeline.data.shards import ABSENT, SAME, Shard
from pipeline.data.webdataset_names import COMMAND, shard_names
from pipeline.errors import UserError
from pipeline.storage.objects import PATIENCE, open_object
from pipeline.storage.urls import redact, unsigned

log = logging.getLogger(__name__)


def find(
    urls: str | Iterable[str],
    images_per_shard: int = 256,
    storage: dict[str, Any] | None = None,
    patience: float = PATIENCE,
    image_key: str = "",
    image_column: str = "",
) -> list[Shard]:
    """The shards behind paths, globs, brace ranges or URLs, in order of name. Raises `UserError` if one of `urls` does
    not exist or cannot be read, or if there is no image.

    Args:
        urls: one or several names.
        images_per_shard: number of loose image files, or of images of a zip, that form a shard.
        storage: fsspec options of the store.
        patience: seconds without a byte after which reading fails.
        image_key: the part of a sample that is the image: what follows the first dot of a file's name (`jpg`), or a
            pattern; several are separated by `;`. Without it, the endings of file names decide.
        image_column: the image column of a Parquet file. Without it, the contents of the columns decide.
    """
    urls = [urls] if isinstance(urls, str) else list(urls)
    if not urls:
        raise UserError("dataset.url is empty: give a path, glob or URL")
    objects: list[Listed] = []
    for url in urls:
        with _errors(url):
            if url.startswith(COMMAND):
                raise UserError(f"dataset.url={redact(url)}: shell commands are not run; name the object itself")
            for listed in entries(url, storage or {}, patience, image_key):
                name = listed.entry.name
                if listed.named and lowered(name).endswith(".txt") and not is_image(name, image_key):
                    objects.extend(lines(listed.fs, name, storage or {}, patience, image_key))
                else:
                    objects.append(listed)
    shards: list[Shard] = []
    loose: list[Entry] = []  # image files, which form groups
    left_out: dict[str, list[str]] = {}
    for listed in mark_links(objects):
        name, kind = listed.entry.name, archive_kind(listed.entry.name)
        if listed.entry.size in (SAME, ABSENT) or (kind is None and not lowered(name).endswith(UNREADABLE)):
            loose.append(listed.entry)
            continue
        if kind is None:
            left_out.setdefault("archive(s) of a kind that is not read", []).append(name)
            continue
        with _errors(name):
            try:
                shards.extend(_archive(listed, images_per_shard, patience, image_key, image_column))
            except NoImages as error:
                if listed.named and image_column:
                    raise UserError(f"dataset.image_column: {redact(name)}: {error}") from None
                left_out.setdefault(f"Parquet file(s) without images ({error})"[:300], []).append(name)
    shards.extend(_groups(loose, images_per_shard))
    notes = [redact(f"{len(names)} {what} left out, for instance {names[0]}") for what, names in left_out.items()]
    if not shards:
        raise UserError(
            redact(f"dataset.url={', '.join(map(str, urls))}: no image found; expected {ACCEPTED}")
            + (f"; dataset.image_key={image_key} names the part of a sample that counts" if image_key else "")
            + "".join(f"; {note}" for note in notes)
        )
    for note in notes:
        log.warning("%s", note)
    names = [(unsigned(entry.name)[0], "") for entry in loose]
    _refuse_repetition([*((s.url, s.part) for s in shards if s.kind != "files"), *names])
    return shards


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Turn the errors of a store into a `UserError` of one line that names the URL."""
    shown = f"dataset.url={redact(url)}"
    try:
        yield
    except (UserError, NoImages):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        several = "{" in url or url.endswith(".txt")  # then the error names the missing object
        raise UserError(redact(f"{shown}: nothing is there{cause or f' ({error})' * several}")) from None
    except PermissionError as error:
        raise UserError(redact(f"{shown}: no permission to read it ({error}); check the credentials")) from None
    except UnicodeDecodeError:
        raise UserError(f"{shown}: a list of paths must be UTF-8 text") from None
    except Exception as error:  # every store's client has its own exceptions
        problem = web_error_behind(error) or f"cannot be reached ({type(error).__name__}: {error})"
        raise UserError(redact(f"{shown}: {problem}")) from error


def _refuse_repetition(names: Iterable[tuple[str, str]]) -> None:
    repeated = [name for (name, _), count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"dataset.url: {redact(repeated[0])} is named more than once ({len(repeated)} such); "
            "an image counts once, so remove the repetition"
        )


def _archive(listed: Listed, images_per_shard: int, patience: float, key: str, column: str) -> Iterator[Shard]:
    """The shards of an archive: a whole tar, parts of a zip, or the row groups of a Parquet file."""
    fs, entry, named = listed
    kind = archive_kind(entry.name) or ""
    url, signing = unsigned(entry.name)
    keys = (signing,) if signing else ()
    if kind == "tar":
        part_name = f"image_key={key}" if key else ""
        yield Shard(kind, url, entry.size, entry.version, part_name, signing=keys, image=key)
        return
    if kind == "parquet" and entry.size == 0 and not named:
        raise NoImages("it has no bytes")
    path, info = fs._strip_protocol(entry.name), {"size": None if entry.size < 0 else entry.size}
    try:
        with open_object(fs, path, info, patience) as file:
            parts = _zip_members(file, url, key) if kind == "zip" else _row_groups(file, column, named)
    except NoImages:
        raise
    except Unclear as error:
        raise UserError(f"dataset.url={redact(entry.name)}: {error}") from None
    except (zipfile.BadZipFile, pyarrow.ArrowInvalid):
        yield Shard(kind, url, entry.size, entry.version, signing=keys)  # reading it will record the damage
        return
    step = images_per_shard if kind == "zip" else 1
    image, setting = (key, "image_key") if kind == "zip" else (column, "image_column")
    for start in range(0, len(parts), step):
        part = tuple(parts[start : start + step])
        share = entry.size * len(part) // len(parts)
        name = f"{start}:{start + len(part)}" + (f" {setting}={image}" if image else "")
        yield Shard(kind, url, share, entry.version, name, part, signing=keys, image=image)


def _zip_members(file: Any, url: str, key: str) -> list[str]:
    with open_zip(file) as opened:
        inside = [name for name in opened.namelist() if archive_kind(name) and not hidden(with_slashes(name))]
        if inside:
            words = f"{len(inside)} archive(s) in {url} are not read, for instance {inside[0]}: unpack it"
            log.warning("%s", redact(words))
        return members(opened, key)


def _row_groups(file: Any, column: str, named: bool) -> list[str]:
    table = open_parquet(file)
    try:
        image_column(file, table, column, named)
    except NoImages:
        if column or not named:  # a file that the user has named counts as damaged
            raise
    return [str(index) for index in range(table.num_row_groups)]


def _groups(files: Sequence[Entry], images_per_shard: int) -> Iterator[Shard]:
    """Shards of loose image files. The URL of a shard is the common folder of its files."""
    for start in range(0, len(files), images_per_shard):
        part = files[start : start + images_per_shard]
        names, signing = zip(*(unsigned(entry.name) for entry in part), strict=True)
        etag = group_version([Entry(name, e.size, e.version) for name, e in zip(names, part, strict=True)])
        size = sum(max(entry.size, 0) for entry in part)
        folder = names[0].rpartition("/")[0]
        while folder and any(not name.startswith(f"{folder}/") for name in names):
            folder = folder.rpartition("/")[0]
        # The name has a hash of the members: other files of the same folder form other shards.
        part_name = f"{len(part)} files {hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]}"
        sizes = tuple(entry.size for entry in part)
        keys = signing if any(signing) else ()
        yield Shard("files", folder or names[0], size, etag, part_name, names, sizes, keys)


def group_version(entries: Sequence[Entry]) -> str:
    """The version of a group of files: a hash of their names, sizes and versions."""
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:32]


def public(urls: str | Sequence[str]) -> str | list[str]:
    """The URLs of a dataset as a catalogue may publish them, without signatures."""
    if isinstance(urls, str) and not ("?" in urls and "{" in urls):
        return unsigned(urls)[0]
    urls = [urls] if isinstance(urls, str) else urls
    return [unsigned(name)[0] for url in urls for name in ([url] if "?" not in url else shard_names(url))]
