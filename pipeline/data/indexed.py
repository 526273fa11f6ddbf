"""Archives with a directory, zip and Parquet: what is in them, and its bytes or the reason why there are none.

archive = open_zip(file)                  # BadZipFile whatever is wrong with it
entries, bad = by_name(archive)
unzipped(archive, entries["0.jpg"][0])    # bytes, or a BadImage

table = open_parquet(file)                # ArrowInvalid whatever is wrong with it
of_cell(column[0])                        # bytes, or a BadImage
"""

from __future__ import annotations

import posixpath
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow
import pyarrow.parquet

from pipeline.data.decode import MAX_BYTES, BadImage, looks_like_image
from pipeline.data.names import hidden, is_image, turned
from pipeline.errors import UserError

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


def in_zip(name: str, key: str) -> bool:
    """Whether an entry's name is an image's that counts. Some programs for Windows write its separators."""
    return is_image(turned(name), key) and not hidden(turned(name))


def led_to(
    archive: zipfile.ZipFile, entries: Mapping[str, Sequence[zipfile.ZipInfo]], link: zipfile.ZipInfo
) -> zipfile.ZipInfo | None:
    """The entry that a symbolic link leads to, if need be over others; None if it leads elsewhere, or to itself."""
    met: set[zipfile.ZipInfo] = set()
    while is_link(link):
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
    except (pyarrow.ArrowException, OSError) as error:
        # Arrow reports corrupt data as a bare OSError at times; a store's passing faults are other classes.
        if not isinstance(error, pyarrow.ArrowException) and (type(error) is not OSError or error.errno):
            raise
        raise pyarrow.ArrowInvalid(str(error)) from error


def open_parquet(file: Any) -> pyarrow.parquet.ParquetFile:
    """A Parquet file whose metadata could be read. Raises `ArrowInvalid`, or the store's own fault."""
    with arrow_errors():
        return pyarrow.parquet.ParquetFile(file)


class NoImages(pyarrow.ArrowInvalid):  # type: ignore[misc]
    """A Parquet file without a column of image bytes: one that describes images, perhaps."""


USUAL = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "content")
"""What columns of images are called; asked only where their contents do not tell."""
SAMPLE = 8
"""Cells of a column that are looked at, at its beginning and at its end."""


def image_column(table: pyarrow.parquet.ParquetFile, wanted: str = "", named: bool = True) -> str:
    """The column of images: the one that is wanted, or the only one of bytes, or the only one whose cells are images.

    Columns of bytes are binary, or the Hugging Face layout struct<bytes, path>. A file that the user has not `named`
    needs cells that are images, or that layout. Raises `NoImages`, or `UserError` where several columns are images.
    """
    schema = table.schema_arrow
    kinds = {field.name: field.type for field in schema if _is_bytes(field.type)}
    if wanted:
        same = [name for name in kinds if name == wanted] or [n for n in kinds if n.lower() == wanted.lower()]
        if same:
            return str(same[0])
        raise NoImages(f"no column {wanted} of image bytes among {', '.join(schema.names)}")
    if not kinds:
        raise NoImages(f"no column of image bytes among {', '.join(schema.names)}")
    layout = [name for name, kind in kinds.items() if pyarrow.types.is_struct(kind)]
    if len(kinds) == 1 and (named or layout):
        return str(next(iter(kinds)))
    cells = {name: _sample(table, name) for name in kinds}
    images = [name for name, its in cells.items() if any(map(looks_like_image, its))]
    if len(images) > 1:
        raise UserError(f"several columns hold images ({', '.join(images)}): say which with dataset.image_column=NAME")
    usual = [name for word in USUAL for name in kinds if name.lower() == word]
    if not (images or layout or usual or named) and any(cells.values()):
        raise NoImages(f"no column of image bytes among {', '.join(schema.names)}")
    return str([*images, *usual, *layout, *kinds][0])


def _is_bytes(kind: Any) -> bool:
    if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _sample(table: pyarrow.parquet.ParquetFile, column: str) -> list[bytes]:
    """The first cells of a column that are not empty, of its first and of its last row group."""
    found: list[bytes] = []
    with arrow_errors():
        for group in sorted({0, table.num_row_groups - 1} & set(range(table.num_row_groups))):
            for batch in islice(table.iter_batches(SAMPLE, row_groups=[group], columns=[column]), 1):
                found += [cell for cell in map(of_cell, batch.column(0)) if isinstance(cell, bytes) and cell]
    return found


def of_cell(image: Any) -> bytes | BadImage:
    """The bytes in one cell of an image column."""
    value = image["bytes"] if image.is_valid and pyarrow.types.is_struct(image.type) else image
    if not value.is_valid:
        return BadImage("no image in the row")
    if value.as_buffer().size > MAX_BYTES:
        return BadImage("too large")
    return bytes(value.as_py())
