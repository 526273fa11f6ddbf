"""Archives with a directory, zip and Parquet: what is in them, and its bytes or the reason why there are none.

archive = open_zip(file)                  # BadZipFile whatever is wrong with it
entries, bad = by_name(archive)
unzipped(archive, entries["0.jpg"][0])    # bytes, or a BadImage

table = open_parquet(file)                # ArrowInvalid whatever is wrong with it; columns.py reads its images
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
from pipeline.data.names import hidden, is_image, sample, turned
from pipeline.data.tars import MAX_PART

UNIX = (3, 19)
"""Systems that zips come from, UNIX and Darwin, of which attributes say what is a link."""
LOCAL_HEADER = 30
"""Bytes before each entry's data, at least."""


def open_zip(file: Any) -> zipfile.ZipFile:
    """A zip whose directory could be read. Raises `BadZipFile`, or the store's own fault."""
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        if isinstance(error.__context__, OSError):  # zipfile passes a fault of the store off as damage
            raise error.__context__ from None
        raise zipfile.BadZipFile(str(error)) from error


def is_link(info: zipfile.ZipInfo) -> bool:
    """Whether an entry is a symbolic link, whose contents are the name that it leads to."""
    return info.create_system in UNIX and stat.S_ISLNK(info.external_attr >> 16)


def unpacked(name: str) -> str:
    """Where an entry lies when it is unpacked."""
    return posixpath.normpath(name)


def by_name(archive: zipfile.ZipFile) -> tuple[dict[str, list[zipfile.ZipInfo]], set[zipfile.ZipInfo]]:
    """The entries of each name, as `unpacked` has it, and those of all whose data lie outside the zip or overlap
    others': a few bytes would unpack to any number of images."""
    entries: dict[str, list[zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        entries.setdefault(unpacked(info.filename), []).append(info)
    bad, end = set(), archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        if not 0 <= info.header_offset <= end - LOCAL_HEADER - info.compress_size:
            bad.add(info)
        end = min(info.header_offset, end)
    return entries, bad


def members(archive: zipfile.ZipFile, key: str) -> list[str]:
    """The names of images, sorted; `key` says which part of a sample is the image."""
    names: dict[str, str] = {}
    for info in archive.infolist():
        if not info.is_dir() and in_zip(info.filename, key):
            names.setdefault(unpacked(info.filename), info.filename)
    return sorted(names.values())


def beside(archive: zipfile.ZipFile, parts: Collection[str]) -> dict[str, dict[str, zipfile.ZipInfo]]:
    """The entries of these parts, by the name of their sample and by part."""
    found: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for info in archive.infolist() if parts else []:
        name, part = sample(turned(info.filename))
        if part in parts and info.file_size <= MAX_PART:
            found.setdefault(name, {})[part] = info
    return found


def in_zip(name: str, key: str) -> bool:
    """Whether an entry's name is an image's that counts. Some programs for Windows write its separators."""
    return is_image(turned(name), key) and not hidden(turned(name))


def led_to(
    archive: zipfile.ZipFile,
    entries: Mapping[str, Sequence[zipfile.ZipInfo]],
    bad: Collection[zipfile.ZipInfo],
    link: zipfile.ZipInfo,
) -> zipfile.ZipInfo | None:
    """The entry that a symbolic link leads to, if need be over others; None if it leads elsewhere, or to itself. One of
    the `bad` is never unpacked, and so leads no further."""
    met: set[zipfile.ZipInfo] = set()
    while is_link(link) and link not in bad:
        text = BadImage("") if link in met else unzipped(archive, link)
        if isinstance(text, BadImage):
            return None
        met.add(link)
        target = unpacked(posixpath.join(posixpath.dirname(link.filename), text.decode(errors="replace")))
        if target not in entries:
            return None
        link = entries[target][0]
    return link


def unzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | BadImage:
    """An entry's bytes, no more than it claims to have."""
    if info.flag_bits & 1:
        return BadImage("encrypted in the archive")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without bounds
        return BadImage("unsupported compression in the archive")
    if info.file_size > MAX_BYTES:
        return BadImage("too large")
    try:
        with archive.open(info) as file:
            return file.read(info.file_size + 1)  # read() would unpack what is there
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError):
        return BadImage("corrupt in the archive")


@contextmanager
def arrow_errors() -> Iterator[None]:
    """Whatever Arrow says of corrupt data as `ArrowInvalid`; a store's faults stay what they are."""
    try:
        yield
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        # Arrow reports corrupt data as a bare OSError at times; a store's passing faults are other classes.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
            raise
        raise pyarrow.ArrowInvalid(str(error)) from error


def open_parquet(file: Any) -> pyarrow.parquet.ParquetFile:
    """A Parquet file whose metadata could be read. Raises `ArrowInvalid`, or the store's own fault."""
    with arrow_errors():
        table = pyarrow.parquet.ParquetFile(file)
        for i in range(len(table.schema)):
            str(table.schema.column(i).path)  # names may be no UTF-8
        return table
