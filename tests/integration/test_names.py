"""Names of files are data: whatever stands in them, a file is found, read and recorded under its own name."""

from __future__ import annotations

import gzip
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.decode import BadImage
from pipeline.data.discovery import find
from pipeline.data.names import hidden
from pipeline.data.readers import ShardReader
from pipeline.storage.objects import filesystem
from tests.helpers import object_store
from tests.helpers.samples import FILES, images, picture, tar_bytes

ODD = (
    *("what?.png", "p?token=1.png", "a#b.png", "100%.png", "%41.png", "a::b.png", "[1].png", "st*r.png", "{1..2}.png"),
    *("a b.png", "k=v.png", "~.png", "é\u2028.png", "x&sig=1.png", "x?versionId=1.png"),
)
HIDDEN = (
    *("._a.png", ".ipynb_checkpoints/a.png", "sub/__MACOSX/._b.png", "sub/.thumbnails/b.png", "@eaDir/a.png"),
    *("__meta__/a.png", "sub/.DS_Store", "Thumbs.db"),
)
SHOWN = ("a.png", "sub/b.png", "./c.png", "../d.png", "__a/e.png", "_/f.png")


def names(url: str | list[str], storage: dict[str, Any] | None = None) -> list[str]:
    """Names of the images that are read, without their folder."""
    read = [(key, data) for shard in find(url, storage=storage) for key, data in ShardReader(shard, storage)]
    assert not [data.reason for _, data in read if isinstance(data, BadImage)]
    return sorted(key.rpartition("/")[2] for key, _ in read)


def check_odd(fs: Any, path: str, url: str, storage: dict[str, Any]) -> None:
    for name in ODD:
        fs.pipe_file(f"{path}/{name}", FILES["000.png"])
    assert names(url, storage) == sorted(ODD)
    assert names(f"{url}/*.png", storage) == sorted(ODD)
    shard = find(url, storage=storage)[0]
    assert shard.members == tuple(sorted(fs.unstrip_protocol(f"{path}/{name}") for name in ODD))


def test_odd_names_on_a_disk(tmp_path: Path) -> None:
    check_odd(fsspec.filesystem("file"), str(tmp_path), str(tmp_path), {})


def test_odd_names_on_s3(tmp_path: Path) -> None:
    with object_store.serve(tmp_path / "weed") as store:
        fs = store.filesystem()
        options = {key: fs.storage_options[key] for key in ("key", "secret", "endpoint_url", "client_kwargs")}
        url = f"{store.bucket('odd')}/photos [2024]"
        check_odd(filesystem(url, options)[0], "odd/photos [2024]", url, options)
        assert len(fs.find("odd")) == len(ODD)  # under these names for every client


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=20))
def test_any_name(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    name = f"x{name}.png"
    (folder / name).write_bytes(FILES["000.png"])
    assert names(str(folder)) == [name]
    assert names(str(folder / name)) == [name] or "{" in name


def test_what_exists_as_it_is_typed_is_no_pattern(tmp_path: Path) -> None:
    for name in ("photos [2024]/1.png", "photos [2024]/2.png", "photos 2/3.png", "st*r/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FILES["000.png"])
    assert names(f"{tmp_path}/photos [2024]/*.png") == ["1.png", "2.png"]
    assert names(f"{tmp_path}/st*r/?.png") == ["4.png"]
    assert names(f"{tmp_path}/photos [0-9]/*") == ["3.png"]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden(name: str) -> None:
    assert hidden(name)


@pytest.mark.parametrize("name", SHOWN)
def test_not_hidden(name: str) -> None:
    assert not hidden(name)


def test_hidden_files_are_left_out_of_every_source(tmp_path: Path) -> None:
    tree = {"a.png": picture(1), "sub/b.png": picture(2), **dict.fromkeys(HIDDEN, picture(3))}
    for name, data in tree.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(data)
    (tmp_path / "x.tar").write_bytes(tar_bytes(tree))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    for url in ("tree", "tree/**/*.png", "x.tar", "x.zip"):
        assert names(f"{tmp_path}/{url}") == ["a.png", "b.png"], url
    assert names(f"{tmp_path}/tree/sub/.thumbnails/*.png") == ["b.png"]  # as it is named


def test_a_text_that_is_met_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "1.png").write_bytes(FILES["000.png"])
    (tmp_path / "0" / "1.txt").write_text("/etc/hostname\nhttp://127.0.0.1:9/x.png\n")
    for url in (f"{tmp_path}/*/*", f"{tmp_path}/0", f"{tmp_path}/0/1.*", f"{tmp_path}/**"):
        assert names(url) == ["1.png"], url


def test_lists_of_two_stores_and_of_any_editor(tmp_path: Path) -> None:
    for name in ("0.png", "1.png", "a\u2028b.png", "c\x0cd.png"):
        (tmp_path / name).write_bytes(FILES["000.png"])
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/2.png", FILES["000.png"])
    lines = f"\ufeff0.png\r\n1.png\r\n\r\na\u2028b.png\nc\x0cd.png\nmemory://{tmp_path.name}/2.png\n"
    (tmp_path / "list.txt").write_bytes(lines.encode())
    assert names(f"{tmp_path}/list.txt") == sorted(["0.png", "1.png", "2.png", "a\u2028b.png", "c\x0cd.png"])


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
def test_compression_is_judged_by_content(tmp_path: Path, name: str) -> None:
    for data in (tar_bytes(FILES), gzip.compress(tar_bytes(FILES)), tar_bytes(FILES, format=tarfile.PAX_FORMAT)):
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, (1, 1))
        assert images(find(str(tmp_path / name))) == list(FILES.values())
