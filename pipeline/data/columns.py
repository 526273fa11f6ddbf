"""Which column of a Parquet file holds images, and the images in it.

column = image_column(file, table)        # the one whose cells are images; or NoImages, or Unclear
for place, data in images(file, table, column, 0):
    place, data                           # its row in the row group, "3", or "3/0" in a list; bytes, or a BadImage

What a column holds decides, not what it is called: audio has the types of images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from pipeline.data.decode import MAX_BYTES, BadImage, has_header
from pipeline.data.indexed import arrow_errors
from pipeline.data.tars import MAX_PART
from pipeline.errors import UserError

ROWS = 8
"""Rows taken at once: a few bytes of dictionary can stand for large images in each."""
BUFFER = 1 << 20
"""Bytes taken at once where a few cells are looked at; Arrow would read the whole row group."""
GROUPS, MOST_ROWS, MOST_CELLS, MOST_BYTES = 8, 20_000, 256, 16 << 20
"""Row groups that are looked at where the first cells do not tell, and what is looked at in each: rows, cells that are
not empty, and bytes of such."""
USUAL = ("image", "images", "img", "jpg", "jpeg", "png", "webp")
OFTEN = ("bytes", "content")
"""What columns of images are called; asked only where a file that the user named has no image that could tell."""
BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II\xbc\x01", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    *(b"\0\0\0\x0cJXL ", b"8BPS\0", b"\x76\x2f\x31\x01", b"qoif"),
)
"""Of JPEG, PNG, GIF, JPEG XR, JPEG 2000, JPEG XL, PSD, OpenEXR and QOI. TIFF's is that of EXIF data as well."""
BRANDS = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf avif avis avci avcs jpeg jpgs".split()
) | {b"crx "}
"""Of HEIF, AVIF and raw pictures in the box that films begin with too."""
LEAST_WIDTH = 64
"""Cells of a fixed width up to this one are hashes and ids."""


class NoImages(pyarrow.ArrowInvalid):  # type: ignore[misc]
    """A Parquet file without a column of images: one that describes images, perhaps."""


class Unclear(UserError):
    """A Parquet file of which the user has to say what holds its images."""


class Column(NamedTuple):
    """A column, or a field in the structs of one: its name with dots, its place in the schema and, in each struct on
    the way, that of the field that leads there; its type without the lists and dictionaries around it, and whether
    it is in a list."""

    name: str
    top: int
    fields: tuple[int, ...]
    kind: Any
    listed: bool = False

    @property
    def holds_bytes(self) -> bool:
        if pyarrow.types.is_fixed_size_binary(self.kind):
            return bool(self.kind.byte_width > LEAST_WIDTH)
        return any(
            check(self.kind)
            for check in (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_binary_view)
        )


def image_column(file: Any, table: pyarrow.parquet.ParquetFile, wanted: str = "", named: bool | None = None) -> Column:
    """The column of images: the one that is wanted, or the only one with a cell that looks like an image.

    Columns of images are of bytes, or in the Hugging Face layout struct<bytes, path>; lists of them, or fields of other
    structs. `named` says whether the user named the file, when it is planned; None when it is read afterwards. Raises
    `NoImages`, or `Unclear` where several columns are images, or none of a file that is `named` is.
    """
    leaves = [leaf for top, field in enumerate(table.schema_arrow) for leaf in _leaves(field.name, top, (), field.type)]
    columns = [leaf for leaf in leaves if leaf.holds_bytes]
    if wanted:
        column = _wanted(leaves, columns, wanted)
    elif not columns:
        raise NoImages(f"no column of image bytes among {_listed(table.schema_arrow.names)}")
    elif len(columns) == 1 and (named is None or (named and _called(columns, USUAL))):
        column = columns[0]
    else:
        column = _found(file, table, columns, named)
    if [leaf.name for leaf in leaves].count(column.name) > 1:
        raise Unclear(f"several columns are called {column.name}: rename all but one")
    return column


def images(
    file: Any, table: pyarrow.parquet.ParquetFile, column: Column, group: int, batches: int | None = None
) -> Iterator[tuple[str, bytes | BadImage]]:
    """The images of a row group, or of its first `batches` of rows; each with its place: the row, and in lists the
    place there. An empty list has none."""
    name = table.schema_arrow.names[column.top]
    before = table.schema_arrow.names[: column.top].count(name)
    texts = []
    if column.listed:  # as a dictionary, any number of copies in a row takes the bytes of one
        its = (table.schema.column(i) for i in _leaf_numbers(table, column))
        texts = [leaf.path for leaf in its if leaf.physical_type == "BYTE_ARRAY"]
    size = BUFFER if batches else 0
    with arrow_errors():
        row = 0
        reader = pyarrow.parquet.ParquetFile(file, metadata=table.metadata, read_dictionary=texts, buffer_size=size)
        for batch in islice(reader.iter_batches(ROWS, row_groups=[group], columns=[name]), batches):
            # A name with a dot may have brought other columns along.
            cells = batch.column([i for i, its in enumerate(batch.schema.names) if its == name][before])
            for cell in cells:
                yield from _in_cell(cell, column.fields, str(row))
                row += 1


def cells(table: pyarrow.parquet.ParquetFile, names: Sequence[str], group: int) -> Iterator[dict[str, bytes]]:
    """For each row of a row group what its columns of these names hold: bytes as they are, texts in UTF-8, all else as
    JSON; nothing where a cell is empty, or there is no such column."""
    there = [name for name in names if table.schema_arrow.names.count(name) == 1]
    if not there:
        yield from ({} for _ in range(table.metadata.row_group(group).num_rows))
        return
    with arrow_errors():
        for batch in table.iter_batches(ROWS, row_groups=[group], columns=there):
            for row in batch.select(there).to_pylist():
                found = {name: _as_bytes(value) for name, value in row.items() if value is not None}
                yield {name: value for name, value in found.items() if len(value) <= MAX_PART}


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value, default=str)).encode()


def _in_cell(cell: Any, fields: tuple[int, ...], place: str) -> Iterator[tuple[str, bytes | BadImage]]:
    if pyarrow.types.is_dictionary(cell.type) and cell.is_valid:
        cell = cell.value
    if not cell.is_valid:
        yield place, BadImage("no image in the row")
    elif _is_list(cell.type):
        for i, one in enumerate(cell.values):
            yield from _in_cell(one, fields, f"{place}/{i}")
    elif pyarrow.types.is_struct(cell.type):
        yield from _in_cell(cell[fields[0]], fields[1:], place)
    elif cell.as_buffer().size > MAX_BYTES:
        yield place, BadImage("too large")
    else:
        yield place, bytes(cell.as_py())


def _is_list(kind: Any) -> bool:
    types = pyarrow.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(check(kind) for check in lists)


def _leaves(name: str, top: int, fields: tuple[int, ...], kind: Any, listed: bool = False) -> Iterator[Column]:
    """All that is in a column; a struct with bytes of that name is one leaf."""
    while _is_list(kind) or pyarrow.types.is_dictionary(kind):
        listed = listed or _is_list(kind)
        kind = kind.value_type
    if not pyarrow.types.is_struct(kind):
        yield Column(name, top, fields, kind, listed)
        return
    at = kind.get_field_index("bytes")
    inside = list(_leaves(name, top, (*fields, at), kind.field(at).type, listed)) if at >= 0 else []
    if len(inside) == 1 and inside[0].name == name and inside[0].holds_bytes:
        yield inside[0]
        return
    for i, field in enumerate(kind):
        yield from _leaves(f"{name}.{field.name}", top, (*fields, i), field.type, listed)


def _wanted(leaves: Sequence[Column], columns: Sequence[Column], wanted: str) -> Column:
    for fits in (str, str.lower):
        same = [column for column in columns if fits(wanted) in (fits(column.name), fits(f"{column.name}.bytes"))]
        if len({column.name for column in same}) > 1:
            raise Unclear(f"several columns are called {wanted} ({_listed(c.name for c in same)}): say which exactly")
        if same:
            return same[0]
    inside = [leaf for leaf in leaves if f"{leaf.name}.".lower().startswith(f"{wanted}.".lower())]
    if inside and not any(leaf.holds_bytes for leaf in inside):
        kinds = [str(leaf.kind) for leaf in inside]
        hint = "; text (base64) is not decoded" if any("string" in kind for kind in kinds) else ""
        raise NoImages(f"column {wanted} holds {_listed(dict.fromkeys(kinds))}, and images are bytes{hint}")
    raise NoImages(f"no column {wanted} of image bytes among {_listed(c.name for c in columns or leaves)}")


def _found(file: Any, table: pyarrow.parquet.ParquetFile, columns: Sequence[Column], named: bool | None) -> Column:
    groups = table.num_row_groups
    ends = sorted({0, groups - 1} & set(range(groups)))
    found, filled = _look(file, table, dict.fromkeys(columns, ends), 1)
    if not found:
        heaviest = {column: _heaviest(table, column) for column in columns}
        found, filled = _look(file, table, heaviest, MOST_ROWS // ROWS)
    # One image to a row goes before lists, parts of structs and such.
    found = [column for column in found if _plain(table, column)] or found
    if len({column.name for column in found}) > 1:
        names = _listed(column.name for column in found)
        raise Unclear(f"several columns hold images ({names}): say which with dataset.image_column=NAME")
    if found:
        return found[0]
    names = _listed(table.schema_arrow.names)
    if named is False and filled is not None and table.metadata.num_rows:
        raise NoImages(f"no column holds images among {names}")
    if named and filled and not _called(columns, USUAL):
        raise Unclear(f"no column holds images among {names}; dataset.image_column=NAME takes one all the same")
    layout = [column for column in columns if column.fields]
    return [*_called(columns, USUAL + OFTEN), *layout, *columns][0]


def _look(
    file: Any, table: pyarrow.parquet.ParquetFile, where: Mapping[Column, Sequence[int]], batches: int
) -> tuple[list[Column], bool | None]:
    """Columns with a cell that looks like an image, in the first `batches` of its row groups. Whether any had a cell
    that is not empty; None if some could not be read."""
    found, filled, broken = [], False, False
    for column, groups in where.items():
        for group in groups:
            size = count = 0
            try:
                for _, data in images(file, table, column, group, batches):
                    if count >= MOST_CELLS or size >= MOST_BYTES:
                        break
                    if isinstance(data, bytes) and data:
                        size, count, filled = size + len(data), count + 1, True
                        if looks_like_image(data):
                            found.append(column)
                            break
            except pyarrow.ArrowInvalid:  # whoever reads that row group records the damage
                broken = True
            if column in found:
                break
    return found, None if broken else filled


def _heaviest(table: pyarrow.parquet.ParquetFile, column: Column) -> list[int]:
    """The row groups where the column has most bytes: cells that are not empty are there."""
    leaves = _leaf_numbers(table, column)

    def weight(group: int) -> int:
        its = table.metadata.row_group(group)
        return sum(its.column(i).total_uncompressed_size for i in leaves)

    return sorted(sorted(range(table.num_row_groups), key=weight, reverse=True)[:GROUPS])


def _leaf_numbers(table: pyarrow.parquet.ParquetFile, column: Column) -> list[int]:
    """The places of what Parquet stores of a column."""
    name = table.schema_arrow.names[column.top]
    paths = [table.schema.column(i).path for i in range(len(table.schema))]
    return [i for i, path in enumerate(paths) if f"{path}.".startswith(f"{name}.")]


def _called(columns: Sequence[Column], words: Sequence[str]) -> list[Column]:
    return [c for word in words for c in columns if c.name.rpartition(".")[2].lower() == word]


def _listed(names: Iterable[str]) -> str:
    joined = ", ".join(names)
    return joined if len(joined) <= 200 else f"{joined[:200]} …"


def looks_like_image(data: bytes) -> bool:
    """Whether bytes begin like an image, of a format that can be decoded or not; what follows may be corrupt."""
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4]), 256)]
        return not BRANDS.isdisjoint(box[i : i + 4] for i in range(0, len(box), 4))
    return data.startswith(BEGINNINGS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or has_header(data)


def _plain(table: pyarrow.parquet.ParquetFile, column: Column) -> bool:
    """Whether each row has one image at most, in bytes or the Hugging Face layout at the top."""
    kind = table.schema_arrow.types[column.top]
    if pyarrow.types.is_struct(kind) and len(column.fields) == 1 and "." not in column.name:
        kind = kind.field(column.fields[0]).type
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))
