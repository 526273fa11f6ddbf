"""Every kind of source, and archives that are not whole: the right images, or the right reason."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.decode import BadImage, decode
from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Shard, group
from pipeline.errors import ShortReadError, UserError
from tests.helpers.samples import FILES, images, picture, tar_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images at several depths with endings in any case, and things that are no images."""
    for name, data in FILES.items():
        path = (
            tmp_path
            / "images"
            / ("deep/er" if name < "003" else "")
            / name.replace(".png", ".PNG" if name > "005" else ".png")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "images" / "notes.md").write_text("no image")
    (tmp_path / "images" / ".hidden.png").write_bytes(b"")
    return tmp_path / "images"


def sorted_bytes(folder: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix.lower() == ".png" and p.name[0] != "."]


def test_folder(folder: Path) -> None:
    shards = find(str(folder), images_per_shard=3)
    assert [len(s.members) for s in shards] == [3, 3, 1]
    assert images(shards) == sorted_bytes(folder)
    assert sum(s.size for s in shards) == sum(map(len, FILES.values()))


def test_tars_by_glob_braces_and_list(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"shard-{i:02d}.tar").write_bytes(tar_bytes(dict(list(FILES.items())[2 * i : 2 * i + 2])))
    expected = list(FILES.values())[:6]
    for url in (
        str(tmp_path / "*.tar"),
        str(tmp_path / "shard-{00..02}.tar"),
        [str(tmp_path / f"shard-{i:02d}.tar") for i in range(3)],
        f"file://{tmp_path}/shard-{{00..02}}.tar",
        str(tmp_path),
    ):
        assert images(find(url)) == expected


def test_a_name_with_braces_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a{0..1}.tar").write_bytes(tar_bytes(FILES))
    assert len(find(str(tmp_path / "a{0..1}.tar"))) == 1


def test_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**FILES, "folder/readme.txt": b"x", "__MACOSX/000.png": b""}.items():
            archive.writestr(name, data)
    shards = find(str(tmp_path / "images.zip"), images_per_shard=4)
    assert [s.part for s in shards] == ["0:4", "4:7"]
    assert images(shards) == list(FILES.values())


def test_list_of_paths_in_a_file(folder: Path) -> None:
    (folder / "list.txt").write_text(f"deep/er/001.png\n\n{folder / '003.png'}\nmissing.png\n")
    assert images(find(str(folder / "list.txt"))) == [FILES["001.png"], FILES["003.png"], "missing file"]


@pytest.mark.parametrize("layout", ["struct", "binary", "other name"])
def test_parquet(tmp_path: Path, layout: str) -> None:
    """The Hugging Face layout, plain bytes, and a column of another name, in several row groups."""
    rows = [*FILES.values(), None]
    column = (
        pa.array([r and {"bytes": r, "path": "x"} for r in rows]) if layout == "struct" else pa.array(rows, pa.binary())
    )
    names = ["label", "photo" if layout == "other name" else "image"]
    pq.write_table(pa.table([pa.array(range(8)), column], names), tmp_path / "0.parquet", row_group_size=3)
    shards = find(str(tmp_path / "*.parquet"))
    assert len(shards) == 3
    assert images(shards) == [*FILES.values(), "no image in the row"]


def test_parquet_without_images_is_damage(tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": [1, 2]}), tmp_path / "0.parquet")
    reader = ShardReader(find(str(tmp_path / "0.parquet"))[0])
    assert list(reader) == []
    assert reader.damage == "no column of image bytes among label"


def test_single_image(folder: Path) -> None:
    assert images(find(str(folder / "003.png"))) == [FILES["003.png"]]


def test_nothing_passes_in_silence(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    for url, message in (
        (str(tmp_path / "nowhere"), "nothing is there"),
        (str(tmp_path / "no*.tar"), "matches nothing"),
        (str(tmp_path / "empty"), "no image found; expected a folder of images, .tar"),
        (str(folder / "notes.md"), "not a kind of file that holds images"),
        ("pipe:cat /etc/passwd", "shell commands are not run"),
        ("nosuch://bucket/x.tar", "cannot open this kind of URL"),
        ([], "dataset.url is empty"),
    ):
        with pytest.raises(UserError, match=message):
            find(url)


def test_a_changed_file_is_another_shard(folder: Path) -> None:
    before = group(find(str(folder)), 1)
    (folder / "003.png").write_bytes(picture(99))
    after = group(find(str(folder)), 1)
    assert before[0].id != after[0].id


def test_tasks_stay_the_same_when_a_dataset_grows(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.tar").write_bytes(tar_bytes(FILES))
    before = group(find(str(tmp_path)), 2)
    (tmp_path / "4.tar").write_bytes(tar_bytes(FILES))
    after = group(find(str(tmp_path)), 2)
    assert [t.id for t in before] == [t.id for t in after[:2]]
    assert len({t.id for t in after}) == 3


class TestTar:
    """Lasting damage is recorded with what is whole before it; a short read raises."""

    @pytest.fixture
    def read(self, tmp_path: Path) -> Callable[..., tuple[list[bytes | str], ShardReader]]:
        def run(data: bytes, name: str = "x.tar", size: int | None = None) -> tuple[list[bytes | str], ShardReader]:
            (tmp_path / name).write_bytes(data)
            reader = ShardReader(Shard("tar", str(tmp_path / name), len(data) if size is None else size, ""))
            return [d.reason if isinstance(d, BadImage) else d for _, d in reader], reader

        return run

    def test_whole(self, read: Callable[..., tuple[list[bytes | str], ShardReader]]) -> None:
        for options in ({}, {"format": tarfile.GNU_FORMAT}, {"format": tarfile.PAX_FORMAT}):
            contents, reader = read(tar_bytes({**FILES, "long/" * 40 + "x.png": FILES["000.png"]}, **options))
            assert contents == [*FILES.values(), FILES["000.png"]]
            assert (reader.damage, reader.lost_bytes) == ("", 0)

    def test_gzip(self, read: Callable[..., tuple[list[bytes | str], ShardReader]]) -> None:
        data = gzip.compress(tar_bytes(FILES))
        assert read(data, "x.tar.gz")[0] == list(FILES.values())
        contents, reader = read(data[: len(data) // 2], "x.tar.gz")
        assert 2 < len(contents) < len(FILES)
        assert contents == [*list(FILES.values())[: len(contents) - 1], "cut off in the archive"]
        assert "end-of-stream" in reader.damage
        corrupt = bytearray(data)
        corrupt[len(data) // 2] ^= 0xFF
        assert read(bytes(corrupt), "x.tar.gz")[1].damage

    @pytest.mark.parametrize("offset", [0, 100, 511, 512, 600, 1023])
    @pytest.mark.parametrize("member", [1, 3, 6])
    def test_truncated_anywhere(
        self, read: Callable[..., tuple[list[bytes | str], ShardReader]], member: int, offset: int
    ) -> None:
        data = tar_bytes(FILES)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            start = tar.getmembers()[member].offset
        contents, reader = read(data[: start + offset])
        # From the end of its header on, the cut member is known to have been there.
        lost = ["cut off in the archive"] if offset >= 512 else []
        assert contents == list(FILES.values())[:member] + lost
        assert reader.damage
        assert reader.lost_bytes == offset

    def test_without_end_blocks(self, read: Callable[..., tuple[list[bytes | str], ShardReader]]) -> None:
        data = tar_bytes(FILES).rstrip(b"\0")
        contents, reader = read(data + bytes(-len(data) % 512))
        assert contents == list(FILES.values())
        assert "breaks off" in reader.damage

    @pytest.mark.parametrize("member", [0, 1, 3, 6])
    def test_corrupt_header_midway(
        self, read: Callable[..., tuple[list[bytes | str], ShardReader]], member: int
    ) -> None:
        data = bytearray(tar_bytes(FILES))
        with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
            start = tar.getmembers()[member].offset
        data[start + 10] ^= 0xFF
        contents, reader = read(bytes(data))
        assert contents == list(FILES.values())[:member]
        assert reader.damage
        assert reader.lost_bytes == len(data) - start

    def test_data_behind_the_end(self, read: Callable[..., tuple[list[bytes | str], ShardReader]]) -> None:
        one = tar_bytes(FILES)
        for data in (one + one, one.rstrip(b"\0") + bytes(1024 + 512) + b"x" * 512):
            contents, reader = read(data)
            assert contents[:7] == list(FILES.values())
            assert reader.damage

    def test_empty(self, read: Callable[..., tuple[list[bytes | str], ShardReader]]) -> None:
        assert read(b"")[1].damage
        contents, reader = read(tar_bytes({}))
        assert (contents, reader.damage) == ([], "")

    @pytest.mark.parametrize("missing", [1, 512, 20_000])
    def test_a_short_read_is_a_passing_fault(
        self, read: Callable[..., tuple[list[bytes | str], ShardReader]], missing: int
    ) -> None:
        data = tar_bytes({**FILES, "big.png": bytes(30_000)})
        with pytest.raises(ShortReadError, match=rf"read {len(data) - missing} of {len(data)} bytes"):
            read(data[:-missing], size=len(data))

    def test_members_that_are_no_images(self, read: Callable[..., tuple[list[bytes | str], ShardReader]]) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for kind, name in (
                (tarfile.SYMTYPE, "link.png"),
                (tarfile.DIRTYPE, "folder.png"),
                (tarfile.CHRTYPE, "dev.png"),
            ):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member)
            for name in ("0.json", "0.txt", "._0.png", "__meta__/0.png", "../0.png", "/abs/0.jpg"):
                member = tarfile.TarInfo(name)
                member.size = len(FILES["000.png"])
                tar.addfile(member, io.BytesIO(FILES["000.png"]))
        assert read(buffer.getvalue())[0] == [FILES["000.png"]] * 2  # names are only names: nothing is unpacked

    def test_an_unknown_type_is_an_ordinary_file(
        self, read: Callable[..., tuple[list[bytes | str], ShardReader]]
    ) -> None:
        """As POSIX demands, and as unpacking does."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for kind in (b"Z", b"8"):
                member = tarfile.TarInfo(f"{kind!r}.png")
                member.type, member.size = kind, len(FILES["000.png"])
                tar.addfile(member, io.BytesIO(FILES["000.png"]))
        assert read(buffer.getvalue())[0] == [FILES["000.png"]] * 2

    def test_the_checksum_is_the_objects(self, read: Callable[..., tuple[list[bytes | str], ShardReader]]) -> None:
        import hashlib

        data = tar_bytes(FILES)
        assert read(data)[1].sha256 == hashlib.sha256(data).hexdigest()


class TestDecode:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_formats(self, kind: str, mode: str) -> None:
        decoded = decode(picture(0, kind, mode))
        assert decoded.shape == (12, 16, 3)
        assert decoded.dtype == np.uint8

    @pytest.mark.parametrize(
        ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "LA"), ("JPEG", "CMYK")]
    )
    def test_modes(self, kind: str, mode: str) -> None:
        assert decode(picture(0, kind, mode)).shape == (12, 16, 3)

    def test_sixteen_bits_are_scaled(self) -> None:
        grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, "PNG")
        np.testing.assert_array_equal(decode(buffer.getvalue())[..., 0], grey // 257)

    def test_reasons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = picture(0, "JPEG")
        for data, reason in (
            (b"", "empty file"),
            (b"<html>not found</html>", "not an image of a supported format"),
            (whole[:-50], "truncated"),
            (picture(0)[:60], "corrupt|truncated"),
        ):
            with pytest.raises(BadImage, match=reason):
                decode(data)
        monkeypatch.setattr("pipeline.data.decode.MAX_PIXELS", 100)
        with pytest.raises(BadImage, match="too large"):
            decode(whole)


def test_an_image_named_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    """No image counts twice, however it is named twice."""
    image = folder / "003.png"
    (tmp_path / "list.txt").write_text(f"{image}\n{image}\n")
    (tmp_path / "x.tar").write_bytes(tar_bytes(FILES))
    for urls in (
        [str(image), str(image)],
        [str(folder), str(image)],
        str(tmp_path / "list.txt"),
        [str(tmp_path / "x.tar"), f"{tmp_path}/images/../x.tar"],
        [str(tmp_path / "x.tar"), str(tmp_path / "*.tar")],
    ):
        with pytest.raises(UserError, match="named more than once"):
            find(urls)


def test_groups_of_other_files_are_other_shards(folder: Path) -> None:
    one, other = (find(str(folder / f"00{i}.png"))[0] for i in (3, 4))
    assert one.url == other.url
    assert one.part != other.part


def test_a_link_beside_its_folder_is_the_same_folder(folder: Path) -> None:
    expected = sorted_bytes(folder)
    (folder / "again").symlink_to(folder / "deep")
    assert images(find(str(folder))) == expected


def test_links_to_folders_are_followed_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "there").symlink_to(folder)
    (folder / "back").symlink_to(tmp_path / "linked")
    assert images(find(str(tmp_path / "linked"))) == sorted_bytes(folder)


def test_a_link_to_nowhere_is_a_missing_file(folder: Path) -> None:
    (folder / "zzz.png").symlink_to("/nowhere")
    assert images(find(str(folder)))[-1] == "missing file"
    assert len(images(find(str(folder)))) == len(FILES) + 1


def test_pipes_and_other_oddities_are_not_opened(folder: Path) -> None:
    expected = sorted_bytes(folder)
    os.mkfifo(folder / "pipe.png")
    assert images(find(str(folder))) == expected


def test_a_corrupt_page_of_parquet_is_damage(tmp_path: Path) -> None:
    rows = [picture(i, mode="L") * 40 for i in range(64)]
    pq.write_table(pa.table({"image": pa.array(rows)}), tmp_path / "0.parquet", row_group_size=32)
    data = bytearray((tmp_path / "0.parquet").read_bytes())
    for i in range(100, 3000):
        data[i] ^= 0x5A
    (tmp_path / "0.parquet").write_bytes(data)
    readers = [ShardReader(shard) for shard in find(str(tmp_path / "0.parquet"))]
    counts = [len(list(reader)) for reader in readers]
    assert readers[0].damage
    assert (counts[1], readers[1].damage) == (32, "")


def test_no_decoder_can_end_the_run() -> None:
    """A damaged AVIF makes Pillow raise a RuntimeError; other formats raise what they like."""
    avif = io.BytesIO()
    Image.new("RGB", (32, 32)).save(avif, "AVIF")
    for data in (
        avif.getvalue()[:-60],
        avif.getvalue()[:40] + bytes(200),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    ):
        with pytest.raises(BadImage):
            decode(data)


def test_floating_point_pixels_have_no_scale() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(buffer, "TIFF")
    with pytest.raises(BadImage, match="floating-point"):
        decode(buffer.getvalue())
