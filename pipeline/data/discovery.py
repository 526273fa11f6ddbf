"""From what the user names to shards: tars, zips, Parquet files, folders, lists of paths.

    shards = find("s3://bucket/laion/{00000..00099}.tar")
    shards = find("photos/")                  # every image below the folder, in groups

Everything becomes a `Shard`, the unit that a ledger records and a task is made of.
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

from extractors.download.web import known
from pipeline.data.columns import NoImages, Unclear, image_column
from pipeline.data.indexed import members, open_parquet, open_zip
from pipeline.data.listing import ACCEPTED, Entry, Found, entries, once
from pipeline.data.lists import lines
from pipeline.data.names import UNREADABLE, archive, ending, hidden, is_image, turned
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
    """The shards behind one or more paths, globs, brace ranges or URLs, in order of name; `storage` are fsspec options.

    `image_key` says which part of a sample is the image, by what follows the first dot of a file's name (`jpg`, or a
    pattern; several with `;`), and `image_column` which column of a Parquet file. Without them files count by their
    endings, and columns by what they hold.

    Raises `UserError` if something does not exist or nothing there is an image or an archive of images.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    if not given:
        raise UserError("dataset.url is empty: give a path, glob or URL")
    found: list[Found] = []
    for url in given:
        with _telling(url):
            if url.startswith(COMMAND):
                raise UserError(f"dataset.url={redact(url)}: shell commands are not run; name the object itself")
            for its in entries(url, storage or {}, patience, image_key):
                if its.named and ending(its.entry.name).endswith(".txt") and not is_image(its.entry.name, image_key):
                    found.extend(lines(its.fs, its.entry.name, storage or {}, patience, image_key))
                else:
                    found.append(its)
    found = once(found)
    shards: list[Shard] = []
    single: list[Entry] = []  # loose images form groups
    left: dict[str, list[str]] = {}
    for its in found:
        kind = archive(its.entry.name)
        if its.entry.size in (SAME, ABSENT) or (kind is None and not ending(its.entry.name).endswith(UNREADABLE)):
            single.append(its.entry)
            continue
        if kind is None:
            left.setdefault("archive(s) of a kind that is not read", []).append(its.entry.name)
            continue
        with _telling(its.entry.name):
            try:
                shards.extend(_archive(its, images_per_shard, patience, image_key, image_column))
            except NoImages as error:
                if its.named and image_column:
                    raise UserError(f"dataset.image_column: {redact(its.entry.name)}: {error}") from None
                left.setdefault(f"Parquet file(s) without images ({error})"[:300], []).append(its.entry.name)
    shards.extend(_groups(single, images_per_shard))
    said = [redact(f"{len(names)} {what} left out, for instance {names[0]}") for what, names in left.items()]
    if not shards:
        raise UserError(
            redact(f"dataset.url={', '.join(map(str, given))}: no image found; expected {ACCEPTED}")
            + (f"; dataset.image_key={image_key} names the part of a sample that counts" if image_key else "")
            + "".join(f"; {words}" for words in said)
        )
    for words in said:
        log.warning("%s", words)
    names = [(unsigned(entry.name)[0], "") for entry in single]
    _refuse_repetition([*((s.url, s.part) for s in shards if s.kind != "files"), *names])
    return shards


@contextmanager
def _telling(url: str) -> Iterator[None]:
    """Whatever a store says of a name, as one line."""
    shown = f"dataset.url={redact(url)}"
    try:
        yield
    except (UserError, NoImages):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        among = "{" in url or url.endswith(".txt")
        raise UserError(redact(f"{shown}: nothing is there{cause or f' ({error})' * among}")) from None
    except PermissionError as error:
        raise UserError(redact(f"{shown}: no permission to read it ({error}); check the credentials")) from None
    except UnicodeDecodeError:
        raise UserError(f"{shown}: a list of paths must be UTF-8 text") from None
    except Exception as error:  # every store's client has exceptions of its own
        said = known(error) or f"cannot be reached ({type(error).__name__}: {error})"
        raise UserError(redact(f"{shown}: {said}")) from error


def _refuse_repetition(names: Iterable[tuple[str, str]]) -> None:
    repeated = [name for (name, _), count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(
            f"dataset.url: {redact(repeated[0])} is named more than once ({len(repeated)} such); "
            "an image counts once, so remove the repetition"
        )


def _archive(found: Found, images_per_shard: int, patience: float, key: str, column: str) -> Iterator[Shard]:
    fs, entry, named = found
    kind = archive(entry.name) or ""
    url, signing = unsigned(entry.name)
    keys = (signing,) if signing else ()
    if kind == "tar":
        chosen = f"image_key={key}" if key else ""
        yield Shard(kind, url, entry.size, entry.version, chosen, signing=keys, image=key)
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
    image, of = (key, "image_key") if kind == "zip" else (column, "image_column")
    for start in range(0, len(parts), step):
        part = tuple(parts[start : start + step])
        share = entry.size * len(part) // len(parts)
        name = f"{start}:{start + len(part)}" + (f" {of}={image}" if image else "")
        yield Shard(kind, url, share, entry.version, name, part, signing=keys, image=image)


def _zip_members(file: Any, url: str, key: str) -> list[str]:
    with open_zip(file) as opened:
        inside = [name for name in opened.namelist() if archive(name) and not hidden(turned(name))]
        if inside:
            words = f"{len(inside)} archive(s) in {url} are not read, for instance {inside[0]}: unpack it"
            log.warning("%s", redact(words))
        return members(opened, key)


def _row_groups(file: Any, column: str, named: bool) -> list[str]:
    table = open_parquet(file)
    try:
        image_column(file, table, column, named)
    except NoImages:
        if column or not named:  # one that the user named is damaged
            raise
    return [str(index) for index in range(table.num_row_groups)]


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
    return [unsigned(name)[0] for url in given for name in ([url] if "?" not in url else shard_names(url))]
