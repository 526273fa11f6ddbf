"""Reading archives that have a directory: zip, and the opening of Parquet files.

archive = open_zip(file)                  # BadZipFile for any damage
entries, bad = entries_by_name(archive)
unzipped(archive, entries["0.jpg"][0])    # bytes, or a BadImage

table = open_parquet(file)                # ArrowInvalid for any damage; columns.py reads the images
"""

from __future__ import annotations

import posixpath
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow
import pyarrow.parquet

from pipeline.data.decode import MAX_BYTES, BadImage
from pipeline.data.names import hidden, is_image, sample, with_slashes
from pipeline.data.tars import MAX_PART

UNIX = (3, 19)
"""Operating systems (UNIX, Darwin) whose zip attributes mark symbolic links."""
LOCAL_HEADER = 30
"""Smallest number of bytes before the data of an entry."""


def open_zip(file: Any) -> zipfile.ZipFile:
    """Open a zip and read its directory. Raises `BadZipFile` for any damage, or the store's own fault."""
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        if isinstance(error.__context__, OSError):  # zipfile reports a fault of the store as damage
            raise error.__context__ from None
        raise zipfile.BadZipFile(str(error)) from error


def is_link(info: zipfile.ZipInfo) -> bool:
    """Whether an entry is a symbolic link. Its contents are the name of its target."""
    return info.create_system in UNIX and stat.S_ISLNK(info.external_attr >> 16)


def unpacked_path(name: str) -> str:
    """The path of an entry after unpacking."""
    return posixpath.normpath(name)


def entries_by_name(archive: zipfile.ZipFile) -> tuple[dict[str, list[zipfile.ZipInfo]], set[zipfile.ZipInfo]]:
    """The entries of a zip by their unpacked path, and the bad ones among them.

    The data of a bad entry lie outside the zip or overlap another entry's. With overlaps, a few bytes could unpack to
    any number of images.
    """
    entries: dict[str, list[zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        entries.setdefault(unpacked_path(info.filename), []).append(info)
    bad, end = set(), archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        if not 0 <= info.header_offset <= end - LOCAL_HEADER - info.compress_size:
            bad.add(info)
        end = min(info.header_offset, end)
    return entries, bad


def members(archive: zipfile.ZipFile, key: str) -> list[str]:
    """The names of the images in a zip, sorted. `key` is the image key."""
    names: dict[str, str] = {}
    for info in archive.infolist():
        if not info.is_dir() and is_image_entry(info.filename, key):
            names.setdefault(unpacked_path(info.filename), info.filename)
    return sorted(names.values())


def parts_by_sample(archive: zipfile.ZipFile, parts: Collection[str]) -> dict[str, dict[str, zipfile.ZipInfo]]:
    """The entries that are one of `parts`, by the key of their sample and by part."""
    entries: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for info in archive.infolist() if parts else []:
        name, part = sample(with_slashes(info.filename))
        if part in parts and info.file_size <= MAX_PART:
            entries.setdefault(name, {})[part] = info
    return entries


def is_image_entry(name: str, key: str) -> bool:
    """Whether an entry is an image that counts, by its name. Some programs for Windows write backslashes."""
    return is_image(with_slashes(name), key) and not hidden(with_slashes(name))


def follow_link(
    archive: zipfile.ZipFile,
    entries: Mapping[str, Sequence[zipfile.ZipInfo]],
    bad: Collection[zipfile.ZipInfo],
    link: zipfile.ZipInfo,
) -> zipfile.ZipInfo | None:
    """The entry that a symbolic link leads to, directly or through other links.

    Returns None if the link leads to no entry, or to itself. A `bad` entry is not unpacked, so a chain of links ends
    there.
    """
    visited: set[zipfile.ZipInfo] = set()
    while is_link(link) and link not in bad:
        text = BadImage("") if link in visited else unzipped(archive, link)
        if isinstance(text, BadImage):
            return None
        visited.add(link)
        target = unpacked_path(posixpath.join(posixpath.dirname(link.filename), text.decode(errors="replace")))
        if target not in entries:
            return None
        link = entries[target][0]
    return link


def unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | BadImage:
    """The bytes of an entry, or the reason why it cannot be read. At most the stated size is unpacked."""
    if info.flag_bits & 1:
        return BadImage("encrypted in the archive")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # other methods unpack without a limit
        return BadImage("unsupported compression in the archive")
    if info.file_size > MAX_BYTES:
        return BadImage("too large")
    try:
        with archive.open(info) as file:
            return file.read(info.file_size + 1)  # without a size, `read` unpacks everything
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError):
        return BadImage("corrupt in the archive")


@contextmanager
def arrow_errors() -> Iterator[None]:
    """Turn Arrow's errors for corrupt data into `ArrowInvalid`. Faults of the store pass through unchanged."""
    try:
        yield
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        # For corrupt data Arrow sometimes raises a plain OSError; passing faults of a store have other classes.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            raise
        raise pyarrow.ArrowInvalid(str(error)) from error


def open_parquet(file: Any) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file and read its metadata. Raises `ArrowInvalid` for any damage, or the store's own fault."""
    with arrow_errors():
        table = pyarrow.parquet.ParquetFile(file)
        for i in range(len(table.schema)):
            str(table.schema.column(i).path)  # fails here if a name is not UTF-8
        return table
