"""Archives with a directory, zip and Parquet: what is in them, and its bytes or the reason why there are none.

archive = open_zip(file)                  # BadZipFile whatever is wrong with it
entries, bad = by_name(archive)
unzipped(archive, entries["0.jpg"][0])    # bytes, or a BadImage

table = open_parquet(file)                # ArrowInvalid whatever is wrong with it; columns.py reads its images
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow
import pyarrow.parquet

from pipeline.data.decode import MAX_BYTES, BadImage

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
    return stat.S_ISLNK(info.external_attr >> 16)


def by_name(archive: zipfile.ZipFile) -> tuple[dict[str, list[zipfile.ZipInfo]], set[zipfile.ZipInfo]]:
    """The entries of each name, and those of all whose data lie outside the zip or overlap others': a few bytes
    would unpack to any number of images."""
    entries: dict[str, list[zipfile.ZipInfo]] = {}
    for info in archive.infolist():
        entries.setdefault(info.filename, []).append(info)
    bad, end = set(), archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        if not 0 <= info.header_offset <= end - LOCAL_HEADER - info.compress_size:
            bad.add(info)
        end = min(info.header_offset, end)
    return entries, bad


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
