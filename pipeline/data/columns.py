"""Finding the image column of a Parquet file, and reading its images.

column = image_column(file, table)        # the column whose cells are images; raises NoImages or Unclear
for position, data in images(file, table, column, 0):
    position, data                        # the row in the row group ("3"), in lists with the index ("3/0"); the bytes

The contents of a column decide, not its name or type: columns of audio have the same types as columns of images.
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

BATCH_ROWS = 8
"""Rows that are read at once. Few, because a dictionary of a few bytes can stand for a large image in each row."""
PROBE_BUFFER = 1 << 20
"""Bytes that are read at once to probe a few cells. By default Arrow reads the whole row group."""
MAX_PROBED_GROUPS, MAX_PROBED_ROWS, MAX_PROBED_CELLS, MAX_PROBED_BYTES = 8, 20_000, 256, 16 << 20
"""How much of a column is probed if its first cells are all empty: row groups, and in each of them rows, cells that are
not empty, and bytes of these cells."""
IMAGE_NAMES = ("image", "images", "img", "jpg", "jpeg", "png", "webp")
BYTES_NAMES = ("bytes", "content")
"""Usual names of image columns. They decide only if the user has named the file and no cell shows what it holds."""
MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II\xbc\x01", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    *(b"\0\0\0\x0cJXL ", b"8BPS\0", b"\x76\x2f\x31\x01", b"qoif"),
)
"""First bytes of JPEG, PNG, GIF, JPEG XR, JPEG 2000, JPEG XL, PSD, OpenEXR and QOI. TIFF is left out: EXIF data begin
with the same bytes."""
BRANDS = frozenset(
    b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf avif avis avci avcs jpeg jpgs".split()
) | {b"crx "}
"""Brands of HEIF, AVIF and raw pictures. They distinguish these from videos, which begin with the same kind of box."""
MAX_ID_WIDTH = 64
"""Bytes up to which cells of a fixed width are taken for hashes or ids."""


class NoImages(pyarrow.ArrowInvalid):  # type: ignore[misc]
    """A Parquet file without a column of images. It may describe images that are stored elsewhere."""


class Unclear(UserError):
    """A Parquet file whose image column the user has to name."""


class Column(NamedTuple):
    """A column, or a field inside the structs of a column.

    `name` has dots between the names of nested fields. `top` is the index of the column in the schema, `fields` the
    index of the field in each struct on the way. `kind` is the type without the lists and dictionaries around it, and
    `listed` says whether there is a list around it.
    """

    name: str
    top: int
    fields: tuple[int, ...]
    kind: Any
    listed: bool = False

    @property
    def holds_bytes(self) -> bool:
        if pyarrow.types.is_fixed_size_binary(self.kind):
            return bool(self.kind.byte_width > MAX_ID_WIDTH)
        return any(
            check(self.kind)
            for check in (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_binary_view)
        )


def image_column(
    file: Any, table: pyarrow.parquet.ParquetFile, requested: str = "", named: bool | None = None
) -> Column:
    """The image column of a Parquet file: the `requested` one, or the only one with a cell that looks like an image.

    An image column holds bytes or, in the Hugging Face layout, struct<bytes, path>; it may also hold lists of these, or
    have them as fields of other structs. At planning, `named` says whether the user has named the file; when the file
    is read later it is None. Raises `NoImages`, and `Unclear` if several columns hold images, or if none of a `named`
    file does.
    """
    leaves = [leaf for top, field in enumerate(table.schema_arrow) for leaf in _leaves(field.name, top, (), field.type)]
    columns = [leaf for leaf in leaves if leaf.holds_bytes]
    if requested:
        column = _requested(leaves, columns, requested)
    elif not columns:
        raise NoImages(f"no column of image bytes among {_shorten(table.schema_arrow.names)}")
    elif len(columns) == 1 and (named is None or (named and _with_names(columns, IMAGE_NAMES))):
        column = columns[0]
    else:
        column = _choose(file, table, columns, named)
    if [leaf.name for leaf in leaves].count(column.name) > 1:
        raise Unclear(f"several columns are called {column.name}: rename all but one")
    return column


def images(
    file: Any, table: pyarrow.parquet.ParquetFile, column: Column, group: int, batches: int | None = None
) -> Iterator[tuple[str, bytes | BadImage]]:
    """The images of a row group, or of its first `batches` batches of `BATCH_ROWS` rows.

    Each image comes with its position: its row and, in a list, its index there. An empty list has no image.
    """
    name = table.schema_arrow.names[column.top]
    same_name = table.schema_arrow.names[: column.top].count(name)
    texts = []
    if column.listed:  # read as a dictionary, any number of copies in a row takes the memory of one
        leaves = (table.schema.column(i) for i in _leaf_numbers(table, column))
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    size = PROBE_BUFFER if batches else 0
    with arrow_errors():
        row = 0
        reader = pyarrow.parquet.ParquetFile(file, metadata=table.metadata, read_dictionary=texts, buffer_size=size)
        for batch in islice(reader.iter_batches(BATCH_ROWS, row_groups=[group], columns=[name]), batches):
            # Arrow takes a name with a dot for a path, and may have read other columns too.
            cells = batch.column([i for i, read in enumerate(batch.schema.names) if read == name][same_name])
            for cell in cells:
                yield from _in_cell(cell, column.fields, str(row))
                row += 1


def cells(table: pyarrow.parquet.ParquetFile, names: Sequence[str], group: int) -> Iterator[dict[str, bytes]]:
    """For each row of a row group, the values of the named columns: bytes unchanged, texts in UTF-8, others as JSON.

    Empty cells, values of more than `MAX_PART` bytes and columns that do not exist are left out.
    """
    columns = [name for name in names if table.schema_arrow.names.count(name) == 1]
    if not columns:
        yield from ({} for _ in range(table.metadata.row_group(group).num_rows))
        return
    with arrow_errors():
        for batch in table.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            for row in batch.select(columns).to_pylist():
                values = {name: _as_bytes(value) for name, value in row.items() if value is not None}
                yield {name: value for name, value in values.items() if len(value) <= MAX_PART}


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value, default=str)).encode()


def _in_cell(cell: Any, fields: tuple[int, ...], position: str) -> Iterator[tuple[str, bytes | BadImage]]:
    if pyarrow.types.is_dictionary(cell.type) and cell.is_valid:
        cell = cell.value
    if not cell.is_valid:
        yield position, BadImage("no image in the row")
    elif _is_list(cell.type):
        for i, item in enumerate(cell.values):
            yield from _in_cell(item, fields, f"{position}/{i}")
    elif pyarrow.types.is_struct(cell.type):
        yield from _in_cell(cell[fields[0]], fields[1:], position)
    elif cell.as_buffer().size > MAX_BYTES:
        yield position, BadImage("too large")
    else:
        yield position, bytes(cell.as_py())


def _is_list(kind: Any) -> bool:
    types = pyarrow.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    return any(check(kind) for check in lists)


def _leaves(name: str, top: int, fields: tuple[int, ...], kind: Any, listed: bool = False) -> Iterator[Column]:
    """The fields inside a column that are no structs. A struct with a field `bytes` of bytes counts as one leaf."""
    while _is_list(kind) or pyarrow.types.is_dictionary(kind):
        listed = listed or _is_list(kind)
        kind = kind.value_type
    if not pyarrow.types.is_struct(kind):
        yield Column(name, top, fields, kind, listed)
        return
    index = kind.get_field_index("bytes")
    inside = list(_leaves(name, top, (*fields, index), kind.field(index).type, listed)) if index >= 0 else []
    if len(inside) == 1 and inside[0].name == name and inside[0].holds_bytes:
        yield inside[0]
        return
    for i, field in enumerate(kind):
        yield from _leaves(f"{name}.{field.name}", top, (*fields, i), field.type, listed)


def _requested(leaves: Sequence[Column], columns: Sequence[Column], name: str) -> Column:
    """The image column that the user has named, in any case of letters."""
    for fold in (str, str.lower):
        same = [column for column in columns if fold(name) in (fold(column.name), fold(f"{column.name}.bytes"))]
        if len({column.name for column in same}) > 1:
            raise Unclear(f"several columns are called {name} ({_shorten(c.name for c in same)}): say which exactly")
        if same:
            return same[0]
    inside = [leaf for leaf in leaves if f"{leaf.name}.".lower().startswith(f"{name}.".lower())]
    if inside and not any(leaf.holds_bytes for leaf in inside):
        kinds = [str(leaf.kind) for leaf in inside]
        hint = "; text (base64) is not decoded" if any("string" in kind for kind in kinds) else ""
        raise NoImages(f"column {name} holds {_shorten(dict.fromkeys(kinds))}, and images are bytes{hint}")
    raise NoImages(f"no column {name} of image bytes among {_shorten(c.name for c in columns or leaves)}")


def _choose(file: Any, table: pyarrow.parquet.ParquetFile, columns: Sequence[Column], named: bool | None) -> Column:
    """The image column, by the cells of the candidates `columns`."""
    groups = table.num_row_groups
    ends = sorted({0, groups - 1} & set(range(groups)))
    matches, filled = _probe(file, table, dict.fromkeys(columns, ends), 1)
    if not matches:
        largest = {column: _largest_groups(table, column) for column in columns}
        matches, filled = _probe(file, table, largest, MAX_PROBED_ROWS // BATCH_ROWS)
    # A column with one image in a row takes precedence over lists and fields of structs.
    matches = [column for column in matches if _plain(table, column)] or matches
    if len({column.name for column in matches}) > 1:
        names = _shorten(column.name for column in matches)
        raise Unclear(f"several columns hold images ({names}): say which with dataset.image_column=NAME")
    if matches:
        return matches[0]
    names = _shorten(table.schema_arrow.names)
    if named is False and filled is not None and table.metadata.num_rows:
        raise NoImages(f"no column holds images among {names}")
    if named and filled and not _with_names(columns, IMAGE_NAMES):
        raise Unclear(f"no column holds images among {names}; dataset.image_column=NAME takes one all the same")
    layout = [column for column in columns if column.fields]
    return [*_with_names(columns, IMAGE_NAMES + BYTES_NAMES), *layout, *columns][0]


def _probe(
    file: Any, table: pyarrow.parquet.ParquetFile, where: Mapping[Column, Sequence[int]], batches: int
) -> tuple[list[Column], bool | None]:
    """Which columns have a cell that looks like an image in the first `batches` batches of the row groups `where`.

    Also returns whether any column has a cell that is not empty, or None if a row group could not be read.
    """
    matches, filled, broken = [], False, False
    for column, groups in where.items():
        for group in groups:
            size = count = 0
            try:
                for _, data in images(file, table, column, group, batches):
                    if count >= MAX_PROBED_CELLS or size >= MAX_PROBED_BYTES:
                        break
                    if isinstance(data, bytes) and data:
                        size, count, filled = size + len(data), count + 1, True
                        if looks_like_image(data):
                            matches.append(column)
                            break
            except pyarrow.ArrowInvalid:  # the damage is recorded when the row group is read
                broken = True
            if column in matches:
                break
    return matches, None if broken else filled


def _largest_groups(table: pyarrow.parquet.ParquetFile, column: Column) -> list[int]:
    """The row groups in which the column has the most bytes. They have cells that are not empty, if any has."""
    leaves = _leaf_numbers(table, column)

    def size(group: int) -> int:
        metadata = table.metadata.row_group(group)
        return sum(metadata.column(i).total_uncompressed_size for i in leaves)

    return sorted(sorted(range(table.num_row_groups), key=size, reverse=True)[:MAX_PROBED_GROUPS])


def _leaf_numbers(table: pyarrow.parquet.ParquetFile, column: Column) -> list[int]:
    """The indices of the leaves that Parquet stores for a column."""
    name = table.schema_arrow.names[column.top]
    paths = [table.schema.column(i).path for i in range(len(table.schema))]
    return [i for i, path in enumerate(paths) if f"{path}.".startswith(f"{name}.")]


def _with_names(columns: Sequence[Column], words: Sequence[str]) -> list[Column]:
    return [c for word in words for c in columns if c.name.rpartition(".")[2].lower() == word]


def _shorten(names: Iterable[str]) -> str:
    joined = ", ".join(names)
    return joined if len(joined) <= 200 else f"{joined[:200]} …"


def looks_like_image(data: bytes) -> bool:
    """Whether bytes begin like an image, also in a format that cannot be decoded. The rest may be corrupt."""
    if data[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(data[:4]), 256)]
        return not BRANDS.isdisjoint(box[i : i + 4] for i in range(0, len(box), 4))
    return data.startswith(MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or has_header(data)


def _plain(table: pyarrow.parquet.ParquetFile, column: Column) -> bool:
    """Whether each row has at most one image: a column of bytes, or in the Hugging Face layout, at the top level."""
    kind = table.schema_arrow.types[column.top]
    if pyarrow.types.is_struct(kind) and len(column.fields) == 1 and "." not in column.name:
        kind = kind.field(column.fields[0]).type
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))
