"""WebDataset's conventions, held against the installed library; each difference that is meant has a name."""

from __future__ import annotations

import gc
import io
import itertools
import posixpath
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from webdataset import autodecode, filters, shardlists, tariterators
from webdataset.gopen import gopen_pipe, gopen_schemes

from pipeline.data.decode import BadImage
from pipeline.data.discovery import find
from pipeline.data.names import IMAGES, hidden, is_image
from pipeline.data.readers import ShardReader
from pipeline.data.tars import TarStream
from pipeline.data.webdataset_names import COMMAND, matches, shard_names, split
from pipeline.errors import UserError
from tests.helpers.samples import FILES

Samples = list[tuple[str, dict[str, bytes | str]]]
"""Samples in order: the key of each, and its parts."""
PICTURE = FILES["000.png"]


def library_samples(archive: bytes) -> Samples:
    """What the webdataset library makes of a tar."""
    files = ({**file, "__url__": "x.tar"} for file in tariterators.tar_file_iterator(io.BytesIO(archive)))
    samples = tariterators.group_by_keys(files)
    return [(s["__key__"], {part: s[part] for part in s if part not in ("__key__", "__url__")}) for s in samples]


def our_samples(archive: bytes) -> Samples:
    """What our reader and names make of it, where every part counts."""
    samples: Samples = []
    members = [(*split(name), data) for name, data in TarStream(io.BytesIO(archive), key="*")]
    for key, parts in itertools.groupby(members, key=lambda member: member[0]):
        samples.append((key, {p: data.reason if isinstance(data, BadImage) else data for _, p, data in parts}))
    return samples


ASKED = ("cls", "json", "txt", "b.cls")
Image = tuple[str, str, bytes | str, dict[str, bytes | str]]
"""An image: the key of its sample, its part, its data, and the other parts that were asked for."""


def library_images(archive: bytes) -> list[Image]:
    """The images of the library's samples, each with its labels."""
    return [
        (key, part, data, {other: parts[other] for other in parts if other in ASKED})
        for key, parts in library_samples(archive)
        for part, data in parts.items()
        if is_image(f"{key}.{part}")
    ]


def our_images(archive: bytes) -> list[Image]:
    """The images that our reader gives with their labels."""
    samples = TarStream(io.BytesIO(archive), parts=ASKED).samples()
    return [
        (*split(name), data.reason if isinstance(data, BadImage) else data, dict(parts))
        for name, data, parts in samples
    ]


def numbered(*names: str) -> bytes:
    """A tar of files of these names, each with other contents; a name may come twice."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for place, name in enumerate(names):
            data = f"{place} {name}".encode(errors="surrogateescape")
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


# -- what is the same --------------------------------------------------------------------------------------------------

SAME = {
    "image and label": ("000.jpg", "000.cls", "001.jpg", "001.cls"),
    "label before image": ("000.cls", "000.json", "000.txt", "000.jpg"),
    "at the first dot": ("a.jpg", "a.seg.png", "a.b.c.d", "b.tar.gz", "c..jpg", "d."),
    "case of the part": ("a.JPG", "a.Seg.PNG", "A.jpg"),
    "folders belong to the key": ("n01/a.jpg", "n02/a.jpg", "./a.jpg", "../a.jpg", "/abs/a.jpg"),
    "dots in folders do not count": ("v1.0/a.jpg", "v1.0/a.cls", "x.y/z.w/a.b.jpg"),
    "apart, a sample is two": ("a.jpg", "b.jpg", "a.cls", "b.cls"),
    "metadata at the top": ("__index__", "__meta__/a.jpg", "__a.b__", "__a__.jpg", "__a/b.jpg", "_/c.jpg", "a.jpg"),
    "any characters": ("a b.jpg", "é.jpg", "x?y=1.jpg", "a#b.jpg", "100%.jpg", "a\\b.jpg", "\udcff.jpg", "a\nb.jpg"),
    "labels behind other parts": (
        "a.jpg",
        "a.npy",
        "a.cls",
        "b.txt",
        "a.json",
        "b.cls",
        "b.jpg",
        "b.seg.png",
        "b.b.cls",
    ),
    "line feeds at the end": ("a.jpg\n", "b\n.jpg"),
    "folders without dots": ("dir\n/a.jpg",),
    "none": (),
}


@pytest.mark.parametrize("names", SAME.values(), ids=SAME)
def test_samples_are_those_of_the_library(names: tuple[str, ...]) -> None:
    archive = numbered(*names)
    assert our_samples(archive) == library_samples(archive)
    assert our_images(archive) == library_images(archive)


NAMES = st.text("aB_.-/\\ {é1", min_size=1, max_size=12)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(NAMES)
def test_a_name_is_split_as_the_library_splits_it(name: str) -> None:
    file = name.rpartition("/")[2]
    assume(not hidden(name) and file not in (".", ".."))
    expected = tariterators.base_plus_ext(name) if "." in file else (name, "")  # the library has no sample for those
    assert split(name) == (expected[0], expected[1].lower())


PARTS = st.tuples(
    st.sampled_from(["a", "b", "n01/a", "n01/b", "v1.0/a", "__meta__/a", "./a", "a_", "__b"]),
    st.sampled_from([".jpg", ".PNG", ".seg.png", ".cls", ".json", ".txt", ".", ".a.b.c"]),
).map("".join)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(PARTS, max_size=24, unique_by=lambda name: posixpath.normpath(name).lower()))
def test_any_tar_has_the_samples_of_the_library(names: list[str]) -> None:
    archive = numbered(*names)
    assert our_samples(archive) == library_samples(archive)
    assert our_images(archive) == library_images(archive)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tar_of_the_librarys_writer(tmp_path: Path) -> None:
    """The usual layout, written and read by the library: the image counts, what describes it lies in its sample."""
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as tar:
        for key in ("n01/000", "n01/001"):
            tar.write({"__key__": key, "png": PICTURE, "cls": 7, "json": {"a": 1}, "txt": "words"})
    archive = (tmp_path / "x.tar").read_bytes()
    assert our_samples(archive) == library_samples(archive)
    assert [(key, sorted(parts)) for key, parts in our_samples(archive)] == [
        (key, ["cls", "json", "png", "txt"]) for key in ("n01/000", "n01/001")
    ]
    (shard,) = find(str(tmp_path / "x.tar"))
    read = [(sample.data, sample.parts) for sample in ShardReader(shard, parts=("cls", "txt")).samples()]
    assert read == [(PICTURE, {"cls": b"7", "txt": b"words"})] * 2
    decoded = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False).decode().to_tuple("cls", "txt"))
    gc.collect()  # webdataset leaves its files open
    assert decoded == [(7, "words")] * 2


def test_what_describes_an_image_is_none() -> None:
    described = [part for part in autodecode.decoders if is_image(f"a.{part}")]
    assert described == []


def test_endings_of_images() -> None:
    """All of ours that the library knows; the library's others are no photographs, or Pillow alone reads them."""
    assert {ending[1:] for ending in IMAGES} - set(autodecode.IMAGE_EXTENSIONS) == {"avif", "heic", "heif"}
    assert {"pnm", "tga", "psd", "ico", "eps"} <= set(autodecode.IMAGE_EXTENSIONS) - {end[1:] for end in IMAGES}


@pytest.mark.parametrize("key", ["jpg", "png", "png;jpg", "seg.png", "jpg;jpeg;png", "cls"])
@pytest.mark.parametrize("parts", [("jpg", "cls"), ("seg.png", "json"), ("png", "txt", "cls.txt"), ("jpeg",)])
def test_an_image_key_names_what_the_library_gets(key: str, parts: tuple[str, ...]) -> None:
    chosen = [part for part in parts if matches(part, key)]
    assert chosen[:1] == (
        [got] if (got := filters.getfirst({p: p for p in parts}, key, missing_is_error=False)) else []
    )


SHARDS = (
    *("x.tar", "x-{000..003}.tar", "x-{0..3}.tar", "{a,b}/{00..01}.tar", "x-{0..10..5}.tar", "x-{3..1}.tar"),
    *("s3://bucket/{a,b{1..2}}/x.tar", "https://host/x-{000..001}.tar?v={1..2}", "hf://datasets/o/n/*.tar", "{x}.tar"),
)


@pytest.mark.parametrize("url", SHARDS)
def test_brace_ranges_stand_for_the_librarys_shards(url: str) -> None:
    assert list(shard_names(url)) == shardlists.expand_urls(url)


# -- what differs, and why ---------------------------------------------------------------------------------------------

DIFFERENT: dict[str, tuple[tuple[str, ...], list[tuple[str, list[str]]], list[tuple[str, list[str]]]]] = {
    "hidden files, and systems' folders, are left out": (
        ("._a.jpg", "sub/.cache/a.jpg", "sub/.jpg", "__MACOSX/a.jpg", "b.jpg"),
        [("sub/.cache/a", ["jpg"]), ("sub/", ["jpg"]), ("__MACOSX/a", ["jpg"]), ("b", ["jpg"])],
        [("b", ["jpg"])],
    ),
    "metadata is left out in every folder": (
        ("sub/__meta__/a.jpg", "sub/__a.b__", "./__c.d__"),
        [("sub/__meta__/a", ["jpg"]), ("sub/__a", ["b__"]), ("./__c", ["d__"])],
        [],
    ),
    "four underscores mark nothing": (("____/a.jpg",), [], [("____/a", ["jpg"])]),
    "a file without a dot has a key, of which only the pattern * takes the part": (
        ("README", "a.jpg"),
        [("a", ["jpg"])],
        [("README", [""]), ("a", ["jpg"])],
    ),
    "a folder's name may have line feeds and dots": (("x.y\n/a.jpg",), [], [("x.y\n/a", ["jpg"])]),
    "parts may have the names of the library's own entries": (
        ("a.jpg", "a.__bad__", "b.jpg"),
        [("b", ["jpg"])],
        [("a", ["jpg", "__bad__"]), ("b", ["jpg"])],
    ),
}


@pytest.mark.parametrize(("names", "theirs", "ours"), DIFFERENT.values(), ids=DIFFERENT)
def test_differences(
    names: tuple[str, ...], theirs: list[tuple[str, list[str]]], ours: list[tuple[str, list[str]]]
) -> None:
    archive = numbered(*names)
    assert [(key, list(parts)) for key, parts in library_samples(archive)] == theirs
    assert [(key, list(parts)) for key, parts in our_samples(archive)] == ours


def test_only_a_pattern_takes_a_file_without_a_dot() -> None:
    assert is_image("README", "*")
    assert not any(is_image("README", key) for key in ("", "jpg", "*.png", "?*", "readme"))


@pytest.mark.parametrize(
    ("names", "ours"),
    [
        (("a.jpg", "a.jpg"), ["0 a.jpg", "duplicate name"]),  # the first counts, decision 29
        (("a.jpg", "./a.jpg"), ["0 a.jpg", "duplicate name"]),  # which the library takes for two samples
        (("a.jpg", "a.JPG"), ["0 a.jpg", "1 a.JPG"]),  # two files on a disk as well
        (("a.__key__", "a.jpg"), ["0 a.__key__", "1 a.jpg"]),
    ],
)
def test_what_the_library_refuses_or_counts_twice(names: tuple[str, ...], ours: list[str]) -> None:
    archive = numbered(*names)
    if names[1] == "./a.jpg":
        assert len(library_samples(archive)) == 2
    else:
        with pytest.raises(ValueError, match="duplicate file name in tar file"):
            library_samples(archive)
    read = [
        data.reason if isinstance(data, BadImage) else data.decode()
        for _, data in TarStream(io.BytesIO(archive), key="*")
    ]
    assert read == ours


def test_of_a_label_that_comes_twice_the_first_counts() -> None:
    archive = numbered("a.cls", "a.jpg", "a.CLS")
    with pytest.raises(ValueError, match="duplicate file name in tar file"):
        library_samples(archive)
    assert our_images(archive) == [("a", "jpg", b"1 a.jpg", {"cls": b"0 a.cls"})]


def test_a_file_without_a_dot_ends_a_sample() -> None:
    """It has a key of its own; the library passes it over."""
    archive = numbered("a.jpg", "README", "a.cls")
    assert library_images(archive) == [("a", "jpg", b"0 a.jpg", {"cls": b"2 a.cls"})]
    assert our_images(archive) == [("a", "jpg", b"0 a.jpg", {})]


def test_every_part_that_a_key_names_counts() -> None:
    """The library gets the first that is there; here images are counted, and none is passed over in silence."""
    parts = ("png", "jpg", "seg.png")
    assert filters.getfirst({part: part for part in parts}, "jpg;png") == "jpg"
    assert [part for part in parts if matches(part, "jpg;png")] == ["png", "jpg"]


@pytest.mark.parametrize("key", ["*.PNG", " .seg.png ; jpg", "seg.???", "[s]eg.png"])
def test_keys_may_be_patterns(key: str) -> None:
    assert [part for part in ("png", "seg.png", "seg.jpeg") if matches(part, key)] == ["seg.png"]
    assert filters.getfirst({"seg.png": b""}, key.replace(" ", ""), missing_is_error=False) is None


DIFFERENT_SHARDS = {
    "a list of names is a list, and :: is part of a name": ("a.tar::b.tar", ["a.tar", "b.tar"], ["a.tar::b.tar"]),
    "a backslash is part of a name": ("a\\b-{0..1}.tar", ["ab-0.tar", "ab-1.tar"], ["a\\b-0.tar", "a\\b-1.tar"]),
}


@pytest.mark.parametrize(("url", "theirs", "ours"), DIFFERENT_SHARDS.values(), ids=DIFFERENT_SHARDS)
def test_differences_of_shard_names(url: str, theirs: list[str], ours: list[str]) -> None:
    assert shardlists.expand_urls(url) == theirs
    assert list(shard_names(url)) == ours


def test_a_brace_without_its_other_one_is_part_of_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unbalanced braces"):
        shardlists.expand_urls("a{0..1.tar")
    assert list(shard_names("a{0..1.tar")) == ["a{0..1.tar"]
    with pytest.raises(UserError, match="nothing is there"):
        find(str(tmp_path / "a{0..1.tar"))


def test_names_do_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDS_HERE", "there")
    assert shardlists.expand_urls("${HERE}/x.tar") == ["there/x.tar"]
    assert list(shard_names("${HERE}/x.tar")) == ["${HERE}/x.tar"]


def test_commands_are_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = f"{COMMAND}touch {made}"
    assert gopen_schemes[COMMAND.removesuffix(":")] is gopen_pipe
    for url in (command, [str(tmp_path), command]):
        with pytest.raises(UserError, match="shell commands are not run"):
            find(url)
    for url in (command.upper(), f"x::{command}", f"{{{command},x.tar}}"):
        with pytest.raises(UserError, match=r"nothing is there|cannot open this kind of URL"):
            find(url)
    assert not made.exists()
