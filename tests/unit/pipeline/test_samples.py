"""What counts as an image, whatever lies beside it and under whatever name: once, and exactly."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from distributions import Ledger, ShardRecord
from pipeline.data.discovery import find
from pipeline.data.lists import left_out
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Shard
from pipeline.errors import UserError
from tests.helpers.dirty import entries, member
from tests.helpers.samples import FILES, IMAGES, RAW, images, parquet, picture, tally, tar_bytes, tree


def arrow(kind: str, data: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, kind) as stream:
        stream.write(data)
    return buffer.getvalue().to_pybytes()


PACKED = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zst": lambda data: arrow("zstd", data),
    "lz4": lambda data: arrow("lz4", data),
}


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "tar.lz4", "tgz"])
@pytest.mark.parametrize("packing", PACKED)
def test_compression_is_judged_by_content(tmp_path: Path, packing: str, ending: str) -> None:
    (tmp_path / f"x.{ending}").write_bytes(PACKED[packing](tar_bytes(FILES)))
    assert images(find(str(tmp_path))) == IMAGES


@pytest.mark.parametrize("packing", [packing for packing in PACKED if packing != "plain"])
def test_compressed_archives_that_break(tmp_path: Path, packing: str) -> None:
    data = PACKED[packing](tar_bytes(FILES, format=tarfile.USTAR_FORMAT))
    for name, broken in {
        "cut": data[: len(data) // 2],
        "flipped": data[:40] + bytes([data[40] ^ 255]) + data[41:],
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(broken)
        (shard,) = find(str(tmp_path / f"{name}.tar"))
        reader = ShardReader(shard)
        contents = [data for _, data in reader if isinstance(data, bytes)]
        assert contents == IMAGES[: len(contents)]
        assert reader.damage or contents == IMAGES


@pytest.mark.parametrize("packing", ["gzip", "bz2", "xz", "zst", "lz4"])
def test_streams_one_behind_the_other(tmp_path: Path, packing: str) -> None:
    data = tar_bytes(FILES)
    (tmp_path / "x.tar").write_bytes(PACKED[packing](data[:3000]) + PACKED[packing](data[3000:]))
    assert tally(str(tmp_path)) == {"counted": len(FILES)}


@pytest.mark.parametrize("packing", ["bz2", "xz", "zst", "lz4"])
def test_a_fault_of_the_store_is_no_damage(tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tar").write_bytes(PACKED[packing](tar_bytes({**FILES, "big.png": os.urandom(3 << 20)})))
    (shard,) = find(str(tmp_path / "x.tar"))

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 1000:
                raise ConnectionResetError("gone")
            return super().read(min(size or 0, 50_000))

    monkeypatch.setattr(
        "pipeline.data.readers.open_object", lambda fs, path, *_: Failing((tmp_path / "x.tar").read_bytes())
    )
    with pytest.raises(ConnectionResetError):
        list(ShardReader(shard))


@pytest.mark.parametrize("ending", ["7z", "rar", "tar.br", "tar.Z"])
def test_archives_that_are_not_read_are_named(tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    tree(tmp_path, {f"x.{ending}": b"?"})
    with pytest.raises(UserError, match=rf"no image found.*of a kind that is not read.*x\.{ending}"):
        find(str(tmp_path))
    tree(tmp_path, {"1.png": IMAGES[0]})
    assert tally(str(tmp_path)) == {"counted": 1}
    assert f"x.{ending}" in caplog.text
    with pytest.raises(UserError, match=r"not a kind of file that holds images; expected .*zst"):
        find(str(tmp_path / f"x.{ending}"))


SAMPLES = {f"{i}.{part}": picture(10 * i + j) for i in range(3) for j, part in enumerate(("jpg", "seg.png", "txt"))}


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("", ["jpg", "seg.png"]),
        ("jpg", ["jpg"]),
        (".JPG", ["jpg"]),
        ("seg.png", ["seg.png"]),
        ("*.png", ["seg.png"]),
        ("jpg;*.png", ["jpg", "seg.png"]),
    ],
)
def test_the_image_of_a_sample(tmp_path: Path, key: str, parts: list[str]) -> None:
    tree(tmp_path / "tree", SAMPLES)
    (tmp_path / "x.tar").write_bytes(tar_bytes(SAMPLES))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in SAMPLES.items():
            archive.writestr(name, data)
    expected = [SAMPLES[f"{i}.{part}"] for i in range(3) for part in parts]
    for url in ("tree", "tree/*", "x.tar", "x.zip"):
        shards = find(str(tmp_path / url), image_key=key)
        assert images([Shard.from_row(shard.to_row()) for shard in shards]) == expected, url


def test_several_images_of_a_sample_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes(SAMPLES))
    for key, several in (("", 3), ("jpg", 0)):
        (shard,) = find(str(tmp_path / "x.tar"), image_key=key)
        reader = ShardReader(shard)
        list(reader)
        assert reader.several == several
    assert find(str(tmp_path / "x.tar"))[0].to_row()[7:] == []  # plans of before are as they were


def test_links_to_files_of_the_listing_are_the_same_file(tmp_path: Path) -> None:
    photos, elsewhere = tree(tmp_path / "photos", FILES), tree(tmp_path / "elsewhere", {"e.png": picture(50)})
    for i, name in enumerate(FILES):
        (photos / f"link{i}.png").symlink_to(photos / name)
        (photos / f"again{i}.png").symlink_to(f"link{i}.png")
    (photos / "out.png").symlink_to(elsewhere / "e.png")
    (photos / "out2.png").symlink_to(elsewhere / "e.png")
    (photos / "nowhere.png").symlink_to(tmp_path / "no.png")
    (photos / "self.png").symlink_to("self.png")
    os.link(photos / "000.png", photos / "hard.png")
    (photos / "copy.png").write_bytes(FILES["000.png"])
    (photos / "loop").symlink_to(photos)
    (photos / "x.tar").write_bytes(tar_bytes(FILES))
    (photos / "y.tar").symlink_to("x.tar")
    expected = {"counted": 7 + 1 + 2 + 7, "same file": 14 + 1 + 1, "missing file": 2}
    for url in (str(photos), f"{photos}/*", f"{photos}/**"):
        assert tally(url) == expected, url
    (tmp_path / "beside").symlink_to(photos)
    both = tally([str(photos), str(tmp_path / "beside")])
    assert both["counted"] == expected["counted"]


def test_a_pattern_may_go_through_links(tmp_path: Path) -> None:
    tree(tmp_path / "2024", FILES)
    (tmp_path / "latest").symlink_to("2024")
    assert tally(f"{tmp_path}/lat*/*.png") == tally(f"{tmp_path}/latest") == {"counted": 7}
    assert tally(f"{tmp_path}/*/*.png") == {"counted": 7, "same file": 7}


def test_links_in_archives(tmp_path: Path) -> None:
    kinds = {"soft.png": tarfile.SYMTYPE, "hard.png": tarfile.LNKTYPE, "sub/up.png": tarfile.SYMTYPE}
    links = [(member(n, 0, kind, "../0.png" if "/" in n else "0.png"), b"") for n, kind in kinds.items()]
    out = [(member("out.png", 0, tarfile.SYMTYPE, "/etc/passwd"), b""), (member("0.png", len(IMAGES[0])), IMAGES[0])]
    (tmp_path / "x.tar").write_bytes(entries(links + out))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("0.png", IMAGES[0])
        for name, target in {"soft.png": "0.png", "sub/up.png": "../0.png", "out.png": "/etc/passwd"}.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    assert tally(str(tmp_path / "x.tar")) == {"counted": 1, "same file": 3}
    assert tally(str(tmp_path / "x.zip")) == {"counted": 1, "same file": 2}


def test_the_same_file_is_never_bad() -> None:
    ledger = Ledger([ShardRecord("x", counted=1, skipped={"same file": 99, "corrupt": 1})])
    assert ledger.bad_fraction == 0.5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_a_list_may_name(tmp_path: Path, encoding: str, end: str) -> None:
    tree(tmp_path, {"a.png": IMAGES[0], "#1.png": IMAGES[1], " b .png": IMAGES[2], "sub/c.png": IMAGES[3]})
    tree(tmp_path, {"x.tar": tar_bytes(FILES), "folder/d.png": IMAGES[4], "._e.png": b"?", "notes.json": b"{}"})
    parquet(tmp_path / "p.parquet", {"image": RAW})
    lines = ["# what is good", "", "  a.png\t", "#1.png", " b .png", "sub\\c.png", "x.tar", "folder", "p.parquet"]
    lines += ["._e.png", "notes.json", "# gone.png", "missing.png", "folder/../folder/../nothing.jpg"]
    (tmp_path / "list.txt").write_bytes(end.join(lines).encode(encoding))
    expected = {"counted": 1 + 1 + 1 + 1 + 7 + 1 + 2, "missing file": 2}
    assert tally(str(tmp_path / "list.txt")) == expected


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (["/d/.cache/a.png", "/d/.cache/b.png"], ["a.png", "b.png"]),  # all of it lies there
        (["/d/.cache/a.png", "/e/b.png"], ["a.png", "b.png"]),
        (["/d/a.png", "/d/.ipynb_checkpoints/a.png", "/d/sub/._b.png"], ["a.png"]),
        (["s3://b/.cache/a.png", "s3://b/.cache/@eaDir/a.png"], ["a.png"]),
        (["http://h/x/a.png", "http://h/x/%40eaDir/a.png"], ["a.png"]),
        (["a.png", ".cache/b.png"], ["a.png"]),
    ],
)
def test_hidden_files_in_lists(lines: list[str], shown: list[str]) -> None:
    left = left_out(lines, "")
    assert [line.rpartition("/")[2] for line in lines if line not in left] == shown


def test_an_archive_that_a_list_names_has_to_be_there(tmp_path: Path) -> None:
    tree(tmp_path, {"list.txt": b"no.tar\n", "a.png": IMAGES[0]})
    with pytest.raises(UserError, match=r"nothing is there.*no\.tar, which .*list\.txt names"):
        find(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("line", ["pipe:cat x.png", "a*.png", "{a,b}.png", "simplecache::x.png"])
def test_a_line_is_a_name(tmp_path: Path, line: str) -> None:
    tree(tmp_path, {"a.png": IMAGES[0], "b.png": IMAGES[1], "list.txt": f"a.png\n{line}\n".encode()})
    assert tally(str(tmp_path / "list.txt")) == {"counted": 1, "missing file": 1}


@pytest.mark.parametrize("line", ["simplecache::s3://b/x.png", "zip://x.png::y.zip", "nosuch://x.png"])
def test_a_line_opens_no_other_stores(tmp_path: Path, line: str) -> None:
    tree(tmp_path, {"list.txt": f"{line}\n".encode()})
    with pytest.raises(UserError, match="cannot open this kind of URL"):
        find(str(tmp_path / "list.txt"))
