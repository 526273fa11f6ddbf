"""Datasets as people have them, each read as its owner would expect: found by attack, told by what went wrong."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.discovery import find
from pipeline.data.names import hidden
from pipeline.data.readers import ShardReader
from pipeline.data.shards import group
from pipeline.errors import UserError
from tests.helpers import object_store
from tests.helpers.samples import FILES, picture, tally, tar_bytes, tree
from tests.helpers.servers import static_server

P = [picture(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_store.ObjectStore]:
    with object_store.serve(tmp_path_factory.mktemp("weed")) as store:
        yield store


@pytest.fixture
def bucket(s3: object_store.ObjectStore, request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], Any]:
    """A bucket, the options of its store, and what writes there."""
    fs = s3.filesystem()
    options = {key: fs.storage_options[key] for key in ("key", "secret", "endpoint_url", "client_kwargs")}
    name = f"b{abs(hash(request.node.nodeid))}"
    return s3.bucket(name), options, lambda key, data: fs.pipe_file(f"{name}/{key}", data)


def zipped(path: Path, files: Mapping[str, bytes], **attributes: int) -> Path:
    """A zip with names as they are given."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo("x")
            info.filename = name
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return path


def archived(folder: Path) -> dict[str, str]:
    """A folder as a tar and as a zip, links as links."""
    with tarfile.open(f"{folder}.tar", "w") as tar:
        tar.add(folder, arcname=folder.name)
    with zipfile.ZipFile(f"{folder}.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink():
                info = zipfile.ZipInfo(str(path.relative_to(folder)))
                info.external_attr = 0o120777 << 16
                archive.writestr(info, str(path.readlink()))
            elif path.is_file():
                archive.write(path, str(path.relative_to(folder)))
    return {"folder": str(folder), "tar": f"{folder}.tar", "zip": f"{folder}.zip"}


# -- what the image is ------------------------------------------------------------------------------------------------


def test_another_part_of_samples_is_other_tasks(tmp_path: Path) -> None:
    names = {f"{i}{end}": P[i] for i in range(4) for end in (".jpg", ".seg.png")}
    url = str(zipped(tmp_path / "k.zip", names))
    ids = [[task.id for task in group(find(url, image_key=key), 4)] for key in ("jpg", "seg.png", "")]
    assert len({tuple(task_ids) for task_ids in ids}) == 3


@pytest.mark.parametrize(("key", "counted"), [("jpg", 1), ("jpg;", 1), ("seg.png", 1), ("jpg; seg.png", 2), ("", 2)])
@pytest.mark.parametrize("source", ["k", "k/*", "k/list.txt"])
def test_the_key_counts_in_every_source(tmp_path: Path, source: str, key: str, counted: int) -> None:
    tree(tmp_path / "k", {"0.jpg": P[0], "0.seg.png": P[1], "README": b"hi", "list.txt": b"0.jpg\n0.seg.png\n"})
    assert tally(f"{tmp_path}/{source}", image_key=key) == {"counted": counted}


def test_a_key_that_nothing_has_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {"a.jpeg": P[0]})
    with pytest.raises(UserError, match="image_key=jpg names"):
        find(str(tmp_path), image_key="jpg")


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "links"),
    [
        ({"blobs/abc": P[0]}, {"snapshots/a.png": "../blobs/abc"}),
        ({".git/annex/objects/SHA.png": P[0]}, {"a.png": ".git/annex/objects/SHA.png"}),
        ({"blobs/abc": P[0]}, {"a.png": "blobs/abc", "b.png": "a.png"}),
        ({"a.png": P[0]}, {"b.png": "a.png", "c.png": "b.png", "sub/d.png": "../c.png"}),
    ],
)
def test_links_lead_to_the_same_images_everywhere(
    tmp_path: Path, files: Mapping[str, bytes], links: Mapping[str, str]
) -> None:
    folder = tree(tmp_path / "x", files)
    for name, leads in links.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(leads)
    tallies = {kind: tally(url) for kind, url in archived(folder).items()}
    assert tallies["folder"]["counted"] == 1
    assert tallies["tar"] == tallies["zip"] == tallies["folder"]


def test_a_link_in_a_compressed_tar_is_not_lost_without_a_word(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", {"blobs/abc": P[0], "b.png": P[1]})
    (folder / "a.png").symlink_to("blobs/abc")
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        tar.add(folder / "blobs", arcname="blobs")
        tar.add(folder / "a.png", arcname="a.png")
        tar.add(folder / "b.png", arcname="b.png")
    assert tally(str(tmp_path / "x.tgz")) == {"counted": 1, "link in a compressed archive": 1}


def test_a_hard_link_whose_first_name_is_hidden(tmp_path: Path) -> None:
    folder = tree(tmp_path / "x", {".cache/a.png": P[0]})
    os.link(folder / ".cache/a.png", folder / "b.png")
    assert {kind: tally(url) for kind, url in archived(folder).items() if kind != "zip"} == {
        "folder": {"counted": 1},
        "tar": {"counted": 1},
    }


@pytest.mark.parametrize("leads", ["../x.png", "self.png", "nowhere.png"])
def test_links_in_zips_that_lead_nowhere(tmp_path: Path, leads: str) -> None:
    info = zipfile.ZipInfo("self.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, leads)
        archive.writestr("a.png", P[0])
    assert tally(str(tmp_path / "x.zip")) == {"counted": 1}


def test_links_whose_data_overlap_are_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.png", "b.png", "c.png"):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "gone.png")
            info.header_offset = 0  # as the directory says it of each
    assert tally(str(tmp_path / "x.zip")) == {"corrupt in the archive": 2}


def test_a_zip_of_dos_has_no_links(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.png": P[0]}, create_system=0, external_attr=0o120777 << 16)
    assert tally(str(path)) == {"counted": 1}


@pytest.mark.parametrize("ending", ["png", "tar", "zip", "parquet"])
def test_a_broken_link_is_a_missing_file(tmp_path: Path, ending: str) -> None:
    tree(tmp_path, {"a.png": P[0]})
    (tmp_path / f"y.{ending}").symlink_to("nowhere")
    assert tally(str(tmp_path)) == {"counted": 1, "missing file": 1}


@pytest.mark.parametrize("line", ["self.png", "x" * 300 + ".png", "a.png/b.png", "gone/../gone.png"])
def test_lines_where_nothing_can_be_are_missing_at_once(tmp_path: Path, line: str) -> None:
    (tmp_path / "self.png").symlink_to("self.png")
    tree(tmp_path, {"a.png": P[0], "l.txt": f"a.png\n{line}\n".encode()})
    assert tally(f"{tmp_path}/l.txt", patience=600) == {"counted": 1, "missing file": 1}


def test_two_dots_behind_a_link(tmp_path: Path) -> None:
    tree(tmp_path, {"x/y/a.png": P[0], "x/b.png": P[1], "b.png": P[2], "l.txt": b"lk/../b.png\n"})
    (tmp_path / "lk").symlink_to("x/y")
    for url in (f"{tmp_path}/lk/../b.png", f"{tmp_path}/l.txt"):
        assert [data for shard in find(url) for _, data in ShardReader(shard)] == [P[1]], url


@pytest.mark.parametrize("ending", ["", "/*", "/**"])
def test_a_link_to_a_folder_above_is_a_loop(tmp_path: Path, ending: str) -> None:
    tree(tmp_path, {"photos/a.png": P[0], "other/b.png": P[1]})
    (tmp_path / "photos/up").symlink_to("..")
    assert tally(f"{tmp_path}/photos{ending}") == {"counted": 1}


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder",
    [
        *("@Recycle", "@Recently-Snapshot", "#snapshot", "~snapshot", "lost+found", "RECYCLER", "FOUND.000"),
        *("PaxHeader", "$RECYCLE.BIN", "System Volume Information"),
    ],
)
def test_what_systems_leave(folder: str) -> None:
    assert hidden(f"{folder}/a.png")


def test_separators_of_windows(tmp_path: Path) -> None:
    names = ("sub\\a.png", "__MACOSX\\._a.png", "sub\\.thumbs\\a.png", "@eaDir\\SYNO.jpg")
    assert tally(str(zipped(tmp_path / "x.zip", dict.fromkeys(names, P[0])))) == {"counted": 1}
    assert tally(str(zipped(tmp_path / "y.zip", {"v1.0\\a.jpg": P[0]})), image_key="jpg") == {"counted": 1}
    tree(tmp_path, {"sub/._a.png": b"?", "sub/a.png": P[0], "l.txt": b"sub\\._a.png\r\nsub\\a.png\r\n"})
    assert tally(f"{tmp_path}/l.txt") == {"counted": 1}


def test_one_name_twice_in_a_zip(tmp_path: Path) -> None:
    expected = {"counted": 1, "duplicate name": 1}
    assert tally(str(zipped(tmp_path / "x.zip", {"a.png": P[0], "./a.png": P[1]}))) == expected


def test_a_tar_whose_first_name_looks_compressed(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"BZh1.png": P[0], "b.png": P[1]}))
    assert tally(str(tmp_path / "x.tar")) == {"counted": 2}


def test_archives_in_archives_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inner = zipped(tmp_path / "train.zip", {"a.png": P[0]}).read_bytes()
    assert tally(str(zipped(tmp_path / "kaggle.zip", {"train.zip": inner, "b.png": P[1]}))) == {"counted": 1}
    assert "train.zip: unpack it" in caplog.text
    (tmp_path / "n.tar").write_bytes(tar_bytes({"b.png": P[0], "in.tar": tar_bytes(FILES), "._x.zip": b""}))
    (shard,) = find(str(tmp_path / "n.tar"))
    reader = ShardReader(shard)
    assert (len(list(reader)), reader.archives) == (1, 1)


# -- what is typed ----------------------------------------------------------------------------------------------------

TYPED: dict[str, dict[str, int]] = {
    "set {a,b}/*.png": {"counted": 1},
    "set {a,b}/{1,2}.png": {"counted": 2},
    "a::b/*.png": {"counted": 1},
    "x{y/*.png": {"counted": 1},
    "x{y/1.png": {"counted": 1},
    "{s,t}/*.png": {"counted": 2},
    "s/*.{png,jpg}": {"counted": 1},
    "*/.thumbs/*.png": {"counted": 1},
    "*/.thumbs/**": {"counted": 1},
    "s/.thumbs/{1,._1}.png": {"counted": 2},
}


@pytest.mark.parametrize("typed", TYPED)
def test_what_is_typed(tmp_path: Path, typed: str) -> None:
    names = ["set {a,b}/1.png", "a::b/1.png", "x{y/1.png", "s/1.png", "t/1.png", "s/.thumbs/1.png", "s/.thumbs/._1.png"]
    tree(tmp_path, {**dict.fromkeys(names, P[0]), "s/.thumbs/@eaDir/z.png": b"?"})
    if "{1,2}" in typed:
        tree(tmp_path, {"set {a,b}/2.png": P[1]})
    assert tally(f"{tmp_path}/{typed}") == TYPED[typed]


@pytest.mark.parametrize(("typed", "words"), [("**.jpg", "write"), ("*.{jpg,gif}", "matches nothing")])
def test_patterns_that_cannot_be(tmp_path: Path, typed: str, words: str) -> None:
    tree(tmp_path, {"a.png": P[0]})
    with pytest.raises(UserError, match=words):
        find(f"{tmp_path}/{typed}")


def test_text_of_another_encoding_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes("a.png\n".encode("utf-16-le"))
    with pytest.raises(UserError, match="must be UTF-8 text"):
        find(f"{tmp_path}/l.txt")


# -- stores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 36])
def test_ranges_mean_the_same_however_long(bucket: tuple[str, dict[str, Any], Any], count: int) -> None:
    url, options, put = bucket
    for i in range(count):
        put(f"r/{i:03d}/a.png", P[0])
        put(f"q/{i:03d}-x.tar", tar_bytes({"a.png": P[0], "b.png": P[1]}))
        put(f"js/{i:03d}.json", b"{}")
    names = f"{{000..{count - 1:03d}}}"
    assert tally(f"{url}/r/{names}", storage=options) == {"counted": count}
    assert tally(f"{url}/q/{names}-*.tar", storage=options) == {"counted": 2 * count}
    assert tally(f"{url}/q/{names}-x.tar", storage=options) == {"counted": 2 * count}
    with pytest.raises(UserError, match="not a kind of file"):
        find(f"{url}/js/{names}.json", storage=options)


def test_odd_names_in_a_bucket(bucket: tuple[str, dict[str, Any], Any]) -> None:
    url, options, put = bucket
    for name in ("a.png", "s/b.png", "u{v.png", "u{1..2}/a.png", "m/a.png"):
        put(name, P[0])
    put("list.txt", b"./a.png\n./s/../s/b.png\n../../../a.png\n")
    put("twice.txt", b"./a.png\ns/b.png\n")
    put("m", b"")
    assert tally(f"{url}/twice.txt", storage=options) == {"counted": 2}
    with pytest.raises(UserError, match="more than once"):
        find(f"{url}/list.txt", storage=options)
    for typed in ("u{v.png", "u{1..2}", "m", "m/"):
        assert tally(f"{url}/{typed}", storage=options) == {"counted": 1}, typed


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a.png\n./a.png\n", "more than once"),
        ("URL/a.png#1\nURL/a.png#2\n", "more than once"),
        ("a.png\nsub/\n", "does not list its folders"),
    ],
)
def test_lists_of_websites(tmp_path: Path, lines: str, words: str) -> None:
    tree(tmp_path, {"a.png": P[0], "sub/b.png": P[1]})
    with static_server(tmp_path) as url:
        (tmp_path / "l.txt").write_text(lines.replace("URL", url))
        with pytest.raises(UserError, match=words):
            find(f"{url}/l.txt")
