"""Parquet files: which column holds images, and which files only describe them."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.columns import looks_like_image
from pipeline.data.decode import BadImage, decode
from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Shard
from pipeline.errors import UserError
from tests.helpers.samples import BASE64, FILES, IMAGES, RAW, images, parquet, tally, tar_bytes, tree

HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


TEXTS = {"url": ["https://x.example"] * 2, "caption": ["words"] * 2}


IDS = pa.array([b"0001", b"0002"], pa.binary())


def hub(cells: list[bytes | None]) -> pa.Array:
    return pa.array([{"bytes": cell, "path": "x.png"} for cell in cells], HUB)


def box(*brands: bytes) -> bytes:
    return (8 + 4 * len(brands) + 4).to_bytes(4) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:]) + bytes(99)


VIDEO = pa.array([box(b"isom", b"isom", b"iso2", b"avc1", b"mp41"), box(b"qt  ", b"qt  ")], pa.binary())


SONG = [b"RIFF\x24\0\0\0WAVEfmt ", b"ID3\x04", box(b"M4A ", b"M4A ", b"mp42")]


PAGES = pa.array([b"<!DOCTYPE html><html>", b"%PDF-1.7\n%\xe2\xe3"], pa.binary())


EMBEDDINGS = pa.array([np.linspace(-1, 1, 64, dtype="<f4").tobytes(), bytes(256)], pa.binary())


DESCRIBING = [
    TEXTS,
    {"md5": IDS},
    {"md5": IDS, "sha": IDS},
    {"n": [1, 2]},
    {"audio": hub(SONG[:2])},
    {"audio": hub(SONG), "text": ["a", "b", "c"]},
    {"url": ["a", "b"], "content": PAGES},
    {"id": ["a", "b"], "image": EMBEDDINGS, "text": EMBEDDINGS},
    {"image": EMBEDDINGS},
    {"k": IDS, "bytes": IDS},
    {"video": VIDEO},
    {"video": [{"bytes": cell.as_py(), "path": "x.mp4"} for cell in VIDEO]},
    {"image": hub([None, None])},
    {"image": hub([b"", None])},
    {"image": pa.array(BASE64, pa.binary())},
    {"image": [data.decode() for data in BASE64]},
    {"clips": pa.array([[row] for row in hub(SONG[:2]).to_pylist()], pa.list_(HUB))},
    {"s": pa.array([{"content": cell.as_py()} for cell in PAGES], pa.struct([("content", pa.binary())]))},
    {"sha512": pa.array([bytes(range(64))] * 2, pa.binary(64))},
    {"exif": pa.array([b"II*\0\x08\0\0\0\0\0", b"MM\0*\0\0\0\x08\0\0"], pa.binary())},
]


@pytest.mark.parametrize("columns", DESCRIBING)
def test_a_parquet_that_describes_is_no_damage(
    tmp_path: Path, columns: Mapping[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    tree(tmp_path, {"0.tar": tar_bytes(FILES), "0.json": b"{}", "0.csv": b"a,b", "0.txt": b"words"})
    parquet(tmp_path / "0.parquet", columns)
    for url in (str(tmp_path), f"{tmp_path}/*"):
        assert tally(url) == {"counted": len(FILES)}
        assert "0.parquet" in caplog.text
    with pytest.raises(UserError, match=r"no image found.*Parquet file\(s\) without images"):
        find(f"{tmp_path}/*.parquet")
    tree(tmp_path / "pictures", {"a.png": IMAGES[0]})
    parquet(tmp_path / "pictures/metadata.parquet", columns)
    assert tally(str(tmp_path / "pictures")) == {"counted": 1}


def test_a_parquet_that_is_named_is_damage_without_images(tmp_path: Path) -> None:
    assert tally(str(parquet(tmp_path / "0.parquet", TEXTS))) == {"damaged": 1}


@pytest.mark.parametrize(
    "columns",
    [
        {"id": IDS, "picture": RAW},
        {"md5": IDS, "photo": hub(IMAGES[:2])},
        {"path": IDS, "length": [1, 1], "content": RAW},
        {"Image": hub(IMAGES[:2]), "id": IDS},
        {"audio": hub([b"RIFF....WAVE", b"RIFF"]), "image": hub(IMAGES[:2])},
        {"seg.png": RAW, "id": IDS},
        {"IMG": pa.array(IMAGES[:2], pa.large_binary())},
        {"id": IDS, "x": hub([None, IMAGES[0]]), "n": [1, 2]},
    ],
)
def test_the_column_is_told_by_what_it_holds(tmp_path: Path, columns: Mapping[str, Any]) -> None:
    path = parquet(tmp_path / "0.parquet", columns)
    expected = {"counted": 1, "no image in the row": 1} if "x" in columns else {"counted": 2}
    assert tally(str(path)) == tally(str(tmp_path)) == expected


def test_several_columns_of_images_are_listed(tmp_path: Path) -> None:
    path = parquet(tmp_path / "0.parquet", {"left": RAW, "right": hub(IMAGES[2:4]), "id": IDS})
    with pytest.raises(UserError, match=r"several columns hold images \(left, right\).*dataset\.image_column=NAME"):
        find(str(path))
    for name, part in (("left", IMAGES[:2]), ("right", IMAGES[2:4]), ("RIGHT", IMAGES[2:4])):
        shards = find(str(path), image_column=name)
        assert images([Shard.from_row(shard.to_row()) for shard in shards]) == part
        assert shards[0].part == f"0:1 image_column={name}"
    with pytest.raises(
        UserError, match=r"dataset\.image_column: .*no column middle of image bytes among left, right, id"
    ):
        find(str(path), image_column="middle")


PATHS = pa.array([["a"], ["b"]])


def rows(*cells: bytes | None) -> list[dict[str, Any]]:
    return [{"bytes": cell, "path": "x.png"} for cell in cells]


@pytest.mark.parametrize(
    ("column", "named", "keys"),
    [
        (RAW.dictionary_encode(), "x", "0 1"),
        (RAW.cast(pa.large_binary()).dictionary_encode(), "x", "0 1"),
        (RAW.cast(pa.binary_view()), "x", "0 1"),
        (RAW.cast(pa.large_binary()), "x", "0 1"),
        (pa.array([data.ljust(900, b"\0") for data in IMAGES[:2]], pa.binary(900)), "x", "0 1"),
        (pa.array(rows(*IMAGES[:2]), pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])), "x", "0 1"),
        (pa.array([IMAGES[:2], [], IMAGES[2:3]], pa.list_(pa.binary())), "x", "0/0 0/1 2/0"),
        (pa.array([IMAGES[:2], IMAGES[2:4]], pa.list_(pa.binary(), 2)), "x", "0/0 0/1 1/0 1/1"),
        (pa.array([IMAGES[:2], IMAGES[2:4]], pa.large_list(pa.binary())), "x", "0/0 0/1 1/0 1/1"),
        (pa.array([IMAGES[:1], IMAGES[1:2]], pa.list_view(pa.binary())), "x", "0/0 1/0"),
        (pa.array([rows(*IMAGES[:2]), rows(*IMAGES[2:3])], pa.list_(HUB)), "x", "0/0 0/1 1/0"),
        (pa.array([[IMAGES[:2]], [[], IMAGES[2:3]]], pa.list_(pa.list_(pa.binary()))), "x", "0/0/0 0/0/1 1/1/0"),
        (pa.array([{"image": row} for row in rows(*IMAGES[:2])], pa.struct([("image", HUB)])), "x.image", "0 1"),
        (pa.array([{"n": 1, "raw": data} for data in IMAGES[:2]]), "x.raw", "0 1"),
        (pa.array([{"images": rows(*IMAGES[:2])}], pa.struct([("images", pa.list_(HUB))])), "x.images", "0/0 0/1"),
        (pa.array([[{"image": row, "n": 1} for row in rows(*IMAGES[:2])]]), "x.image", "0/0 0/1"),
    ],
)
def test_columns_of_every_type(tmp_path: Path, column: pa.Array, named: str, keys: str) -> None:
    more = {"id": [b"id"] * len(column), "caption": ["words"] * len(column)}
    for folder, columns in (("alone", {"x": column}), ("beside", {**more, "x": column})):
        path = parquet(tmp_path / folder / "0.parquet", columns)
        for url in (path, path.parent):
            for wanted in ("", named, named.upper()):
                (shard,) = find(str(url), image_column=wanted)
                entries = list(ShardReader(Shard.from_row(shard.to_row())))
                assert [key for key, _ in entries] == [f"0.parquet/0/{key}" for key in keys.split()]
                assert [data.rstrip(b"\0") if isinstance(data, bytes) else data.reason for _, data in entries] == [
                    data.rstrip(b"\0") for data in IMAGES[: len(entries)]
                ]


def test_cells_without_an_image(tmp_path: Path) -> None:
    cells = pa.array([None, [None, *rows(IMAGES[0], None)], []], pa.list_(HUB))
    (shard,) = find(str(parquet(tmp_path / "0.parquet", {"images": cells})))
    entries = [(key, data if isinstance(data, bytes) else data.reason) for key, data in ShardReader(shard)]
    none = "no image in the row"
    assert entries == [
        ("0.parquet/0/0", none),
        ("0.parquet/0/1/0", none),
        ("0.parquet/0/1/1", IMAGES[0]),
        ("0.parquet/0/1/2", none),
    ]
    encoded = pa.array([None, IMAGES[0]], pa.binary()).dictionary_encode()
    assert tally(str(parquet(tmp_path / "1.parquet", {"x": encoded}))) == {"counted": 1, none: 1}


@pytest.mark.parametrize("hub", [False, True])
def test_copies_in_a_row_take_the_bytes_of_one(tmp_path: Path, hub: bool) -> None:
    """Of 4000 images of 1 MiB in a row, which a file of 1 MiB stands for, some are read."""
    copies = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), [IMAGES[0].ljust(1 << 20, b"\0")])
    cells = pa.StructArray.from_arrays([copies], ["bytes"]) if hub else copies
    table = pa.table({"images": pa.ListArray.from_arrays([0, len(cells)], cells)})
    pq.write_table(table, tmp_path / "0.parquet", store_schema=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (shard,) = find(str(tmp_path))
    assert len(list(itertools.islice(ShardReader(shard), 20))) == 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 500


@pytest.mark.parametrize("empty", [None, b""])
@pytest.mark.parametrize(("before", "after", "group"), [(9, 0, 99), (100, 100, 10), (300, 5, 400), (0, 50, 7)])
def test_the_first_cells_may_be_empty(tmp_path: Path, empty: bytes | None, before: int, after: int, group: int) -> None:
    cells = [*[empty] * before, *IMAGES[:3], *[empty] * after]
    path = tmp_path / "0.parquet"
    reason = "empty file" if empty == b"" else "no image in the row"
    for columns in (
        {"id": pa.array([b"id"] * len(cells)), "photo": pa.array(cells, pa.binary())},
        {"audio": hub([SONG[0]] * len(cells)), "photo": hub(cells)},
    ):
        pq.write_table(pa.table(columns), path, row_group_size=group)
        assert tally(str(path)) == tally(str(tmp_path)) == {"counted": 3, reason: before + after}


@pytest.mark.parametrize("corrupt", [b"\0" * 99, b"<html>404</html>", b"\xff\xd8\xff\xe0 broken"])
def test_corrupt_images_among_good_ones(tmp_path: Path, corrupt: bytes) -> None:
    with pytest.raises(BadImage) as bad:
        decode(corrupt)
    cells = [corrupt] * 40 + IMAGES[:3] + [corrupt] * 40
    for columns in ({"x": pa.array(cells)}, {"x": hub(cells)}, {"id": [b"id"] * len(cells), "x": pa.array(cells)}):
        path = parquet(tmp_path / "0.parquet", columns)
        assert tally(str(path)) == tally(str(tmp_path)) == {"counted": 3, bad.value.reason: 80}
    for columns in ({"image": pa.array([corrupt] * 2)}, {"id": IDS, "image": hub([corrupt] * 2)}):
        assert tally(str(parquet(tmp_path / "0.parquet", columns))) == {bad.value.reason: 2}


@pytest.mark.parametrize(
    "columns",
    [
        {"audio": hub(SONG[:2])},
        {"url": ["a", "b"], "content": PAGES},
        {"k": IDS, "bytes": IDS},
        {"video": VIDEO},
        {"k": IDS, "embedding": EMBEDDINGS},
    ],
)
def test_a_parquet_that_is_named_and_holds_something_else(tmp_path: Path, columns: Mapping[str, Any]) -> None:
    path, last = parquet(tmp_path / "0.parquet", columns), list(columns)[-1]
    with pytest.raises(UserError, match=rf"0\.parquet: no column holds images among .*{last}; dataset\.image_column"):
        find(str(path))
    assert tally(str(path), image_column=last) == {"not an image of a supported format": 2}


@pytest.mark.parametrize(
    ("brands", "image"),
    [
        ([b"heic", b"mif1", b"heic"], True),
        ([b"mif1", b"avif", b"miaf"], True),
        ([b"avis", b"msf1", b"iso8"], True),
        ([b"1pic", b"heix"], True),
        ([b"crx ", b"isom"], True),
        ([b"isom", b"iso2", b"avc1", b"mp41"], False),
        ([b"qt  ", b"qt  "], False),
        ([b"M4A ", b"isom", b"mp42"], False),
        ([b"3gp5", b"isom"], False),
        ([b"mp42", b"hvc1", b"dash"], False),
    ],
)
def test_films_begin_like_pictures(brands: list[bytes], image: bool) -> None:
    assert looks_like_image(box(*brands)) is image
    assert not looks_like_image(box(b"isom") + b"heicavif")


def test_images_beside_films(tmp_path: Path) -> None:
    path = parquet(tmp_path / "0.parquet", {"video": VIDEO, "image": RAW, "exif": [b"II*\0\x08\0\0\0\0\0"] * 2})
    assert tally(str(path)) == tally(str(tmp_path)) == {"counted": 2}


def test_one_image_to_a_row_goes_before_lists(tmp_path: Path) -> None:
    crops = pa.array([IMAGES[2:4], IMAGES[4:6]], pa.list_(pa.binary()))
    path = parquet(tmp_path / "0.parquet", {"crops": crops, "photo": RAW})
    assert images(find(str(path))) == IMAGES[:2]
    assert images(find(str(path), image_column="crops")) == IMAGES[2:6]
    path = parquet(tmp_path / "1.parquet", {"a": crops, "b": crops})
    with pytest.raises(UserError, match=r"1\.parquet: several columns hold images \(a, b\)"):
        find(str(path))


@pytest.mark.parametrize("others", [["a", "b"], IDS, [1, 2], hub(IMAGES[:2])])
def test_two_columns_of_one_name(tmp_path: Path, others: Any) -> None:
    for i, arrays in enumerate(([pa.array(others), RAW], [RAW, pa.array(others)])):
        pq.write_table(pa.Table.from_arrays([*arrays, RAW], ["image", "image", "photo"]), tmp_path / f"{i}.parquet")
        for wanted in ("image", "IMAGE"):
            with pytest.raises(UserError, match="several columns are called image: rename all but one"):
                find(str(tmp_path / f"{i}.parquet"), image_column=wanted)
        assert images(find(str(tmp_path / f"{i}.parquet"), image_column="photo")) == IMAGES[:2]
        pq.write_table(pa.Table.from_arrays(arrays, ["image", "image"]), tmp_path / f"{i}.parquet")
        with pytest.raises(UserError, match=r"\.parquet: several columns are called image: rename all but one"):
            find(str(tmp_path / f"{i}.parquet"))
    tables = pa.Table.from_arrays([pa.array(["a", "b"])] * 2 + [RAW], ["text", "text", "image"])
    pq.write_table(tables, tmp_path / "0.parquet")
    assert tally(str(tmp_path / "0.parquet")) == {"counted": 2}


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        ({"b64": [data.decode() for data in BASE64]}, "b64", r"b64 holds string, .*text \(base64\) is not decoded"),
        ({"b64": PATHS}, "B64", r"B64 holds string, .*text \(base64\) is not decoded"),
        ({"image": [{"bytes": "text", "path": "x"}] * 2}, "image", r"image holds string, .*base64"),
        ({"n": [1, 2], "x": RAW}, "n", r"column n holds int64, and images are bytes$"),
        ({"s": [{"image": data, "mask": data} for data in IMAGES[:2]]}, "s", r"no column s .*among s\.image, s\.mask$"),
        ({"s": [{"image": data} for data in IMAGES[:2]]}, "s.mask", r"no column s\.mask .*among s\.image$"),
        ({"Image": RAW, "IMAGE": RAW}, "image", r"several columns are called image \(Image, IMAGE\)"),
    ],
)
def test_a_column_that_is_named_and_holds_no_bytes(
    tmp_path: Path, columns: Mapping[str, Any], wanted: str, message: str
) -> None:
    path = parquet(tmp_path / "0.parquet", columns)
    with pytest.raises(UserError, match=rf"0\.parquet: .*{message}"):
        find(str(path), image_column=wanted)


def test_parquets_that_break_beside_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, {"a.png": IMAGES[0], "empty.parquet": b""})
    assert tally(str(tmp_path)) == {"counted": 1}
    assert "1 Parquet file(s) without images (it has no bytes) left out" in caplog.text
    assert tally(str(tmp_path / "empty.parquet")) == {"damaged": 1}
    whole = parquet(tmp_path / "b.parquet", {"photo": hub(IMAGES[:4])}).read_bytes()
    for broken in (whole[:-20], whole[: len(whole) // 2], b"version https://git-lfs.github.com/spec/v1\n"):
        (tmp_path / "b.parquet").write_bytes(broken)
        assert tally(str(tmp_path)) == {"counted": 1, "damaged": 1}
    (tmp_path / "b.parquet").write_bytes(whole.replace(b"photo", b"ph\xfft\xfe"))  # its names are no text
    assert tally(str(tmp_path)) == {"counted": 1, "damaged": 1}
    # The first page cannot be read: whether it had images nobody knows, and the second row group is whole.
    cells = [data * 40 for data in IMAGES[:4]]
    pq.write_table(pa.table({"photo": hub(cells)}), tmp_path / "b.parquet", row_group_size=2, compression="zstd")
    data = bytearray((tmp_path / "b.parquet").read_bytes())
    data[30:200] = bytes(170)
    (tmp_path / "b.parquet").write_bytes(data)
    assert tally(str(tmp_path)) == {"counted": 3, "damaged": 1}
