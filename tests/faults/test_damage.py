"""Bytes of every kind of file cut, flipped, zeroed, repeated and dropped at random: never a crash, a hang or a wrong
count. `FAULTS=full` tries twenty times as much."""

from __future__ import annotations

import gzip
import io
import os
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distributions import VDNA, HistogramAxes
from pipeline.catalogue.writer import Store
from pipeline.data.decode import MAX_PIXELS, BadImage, decode
from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader
from pipeline.errors import NEWER, DamagedError, UserError
from pipeline.formats.datasets import from_dataset, to_dataset
from pipeline.formats.groups import open_group, pack, zipped
from pipeline.formats.vdna_files import read, write
from tests.helpers import dirty
from tests.helpers.dirty_pictures import pictures
from tests.helpers.material import ALL

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
MANY = 20 if os.environ.get("FAULTS") == "full" else 1
pytestmark = pytest.mark.timeout(600 * MANY)

Change = tuple[str, int, int, int]


def tries(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples * MANY, derandomize=True, deadline=None, suppress_health_check=checks)


def changes(size: int, most: int = 3) -> st.SearchStrategy[list[Change]]:
    """Changes of something of that size: what, where, how many bytes, and the bits that are flipped."""
    kinds = st.sampled_from(["cut", "flip", "flip", "zero", "repeat", "drop"])
    counts, bits = st.sampled_from([1, 1, 1, 2, 8, 60, 600]), st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 255])
    return st.lists(st.tuples(kinds, st.integers(0, size - 1), counts, bits), min_size=1, max_size=most)


def damaged(data: bytes, todo: list[Change]) -> bytes:
    for kind, at, count, bits in todo:
        part = data[at : at + count]
        if kind == "cut":
            data = data[:at]
        else:
            new = {"flip": bytes(b ^ bits for b in part), "zero": bytes(len(part)), "repeat": part + part, "drop": b""}
            data = data[:at] + new[kind] + data[at + count :]
    return data


def outcome(action: Callable[[], T], error: type[E] | tuple[type[E], ...]) -> T | E:
    """What comes of it; any other exception is a failure."""
    try:
        return action()
    except error as raised:
        return raised


# -- archives ------------------------------------------------------------------------------------------------------


def seen(path: Path, data: bytes) -> tuple[list[tuple[str, str]], list[str]]:
    """Names with their reasons ("" for bytes), and what the readers say of damage."""
    path.write_bytes(data)
    images, damage = [], []
    for shard in find(str(path)):
        reader = ShardReader(shard)
        for key, image in reader:
            images.append((key.partition("/")[2], image.reason if isinstance(image, BadImage) else ""))
        damage += [reader.damage] * bool(reader.damage)
    return images, damage


TAR = dirty.tar()
NAMES = list(dirty.FILES)
BODIES = [i for start in dirty.starts(TAR) for i in range(start + 512, start + 512 + 3000)]


@tries(500)
@given(todo=changes(len(TAR), most=1))
def test_tars(tmp_path: Path, todo: list[Change]) -> None:
    """What is seen are the first members; all of them, unless damage is recorded."""
    kind, at, count, bits = todo[0]  # of two bits, a header's checksum may see neither
    todo = [(kind, at, 1 if kind == "flip" else count, bits)]
    images, damage = seen(tmp_path / "x.tar", damaged(TAR, todo))
    names = [name for name, _ in images]
    assert names == NAMES[: len(names)]
    assert len(names) == len(NAMES) or damage
    assert all(reason == "" for _, reason in images[:-1])


@tries(50)
@given(places=st.lists(st.sampled_from(BODIES)))
def test_tars_whose_bodies_alone_are_hit(tmp_path: Path, places: list[int]) -> None:
    hit = damaged(TAR, [("flip", place, 1, 255) for place in places])
    assert seen(tmp_path / "x.tar", hit) == ([(name, "") for name in NAMES], [])


LONG = dirty.tar({f"{'long/' * 40}{name}": data for name, data in dirty.FILES.items()}, format=2)
PACKED = gzip.compress(TAR, mtime=0)


@pytest.mark.parametrize(("name", "data"), [("x.tar", LONG), ("x.tar.gz", PACKED)], ids=["pax", "gzip"])
@tries(200)
@given(draw=st.data())
def test_tars_without_checksums_of_their_names(tmp_path: Path, name: str, data: bytes, draw: st.DataObject) -> None:
    images, damage = seen(tmp_path / name, damaged(data, draw.draw(changes(len(data)))))
    assert len(images) <= len(NAMES)
    if name.endswith("gz"):
        assert len(images) == len(NAMES) or damage


@tries(200)
@given(todo=changes(len(dirty.zipped())))
def test_zips(tmp_path: Path, todo: list[Change]) -> None:
    """What the directory still calls an image is seen, or the directory is damaged."""
    data = damaged(dirty.zipped(), todo)
    result = outcome(lambda: seen(tmp_path / "x.zip", data), UserError)
    images, damage = ([], []) if isinstance(result, UserError) else result
    assert len(images) <= len(NAMES)
    if not damage:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
        assert len(images) == sum(name.lower().endswith(".png") for name in names)
    if isinstance(result, UserError):
        assert "no image found" in str(result)


ROWS = next(case.data for case in dirty.cases() if case.name == "whole.parquet")


@tries(200)
@given(todo=changes(len(ROWS)))
def test_parquet_files(tmp_path: Path, todo: list[Change]) -> None:
    images, damage = seen(tmp_path / "x.parquet", damaged(ROWS, todo))
    assert len(images) == len(NAMES) or damage


WHOLE = [data for _, data, reason in pictures() if not reason]


@pytest.fixture(scope="module")
def memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 12 * MAX_PIXELS, f"a few bytes took {grown >> 20} MiB"


@pytest.mark.usefixtures("memory")
@tries(1500)
@given(draw=st.data())
def test_pictures(draw: st.DataObject) -> None:
    """A picture or a reason, never another exception or any amount of memory."""
    data = draw.draw(st.sampled_from(WHOLE))
    changed = damaged(data, draw.draw(changes(len(data))))
    result = outcome(lambda: decode(changed), BadImage)
    assert result.reason if isinstance(result, BadImage) else result.shape[2:] == (3,)


# -- partials and groups -------------------------------------------------------------------------------------------


@pytest.fixture
def vdna(filled: Callable[..., VDNA]) -> VDNA:
    return filled(1)


@tries(80)
@given(draw=st.data())
def test_partials(tmp_path: Path, vdna: VDNA, draw: st.DataObject) -> None:
    """The same VDNA, or the partial is refused by its name and gone."""
    store = Store(str(tmp_path))
    data = zipped(pack(to_dataset(vdna, {"task": "task", "provenance": "{}"}), consolidated=False))
    path = f"partials/{vdna.spec.id}/task.zip"
    store.put(path, damaged(data, draw.draw(changes(len(data)))))
    result = outcome(lambda: store.get_partial(vdna.spec, "task"), DamagedError)
    assert result is not None
    if isinstance(result, DamagedError):
        assert "task.zip is damaged" in str(result)
        assert store.get(path) is None
    else:
        assert (result[0].digest(), result[0].ledger) == (vdna.digest(), vdna.ledger)


@tries(80)
@given(draw=st.data())
def test_groups_without_a_checksum(vdna: VDNA, draw: st.DataObject) -> None:
    """An object of a group has none of its own: what its bytes decode to must be right, or refused."""
    objects = pack(to_dataset(vdna, {}), consolidated=False)
    name = draw.draw(st.sampled_from(sorted(objects)))
    objects[name] = damaged(objects[name], draw.draw(changes(len(objects[name]))))
    result = outcome(lambda: from_dataset(open_group(objects)), (DamagedError, UserError))
    if isinstance(result, UserError):
        assert NEWER in str(result)  # the damage made the format a later one
    if isinstance(result, VDNA):
        assert (result.spec.id, result.digest(), result.ledger) == (vdna.spec.id, vdna.digest(), vdna.ledger)


# -- files of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["json", "npz"])
@pytest.mark.parametrize("distribution", ALL)
@tries(150)
@given(draw=st.data())
def test_files_of_the_seed(tmp_path: Path, vdna: VDNA, distribution: str, ending: str, draw: st.DataObject) -> None:
    """Another number in them cannot be noticed; another shape can."""
    write(vdna, tmp_path / "x", distribution)
    path = tmp_path / f"x.{ending}"
    data = path.read_bytes()
    path.write_bytes(damaged(data, draw.draw(changes(len(data)))))
    result = outcome(lambda: read(tmp_path / "x", vdna.spec.ranges), UserError)
    if isinstance(result, UserError):
        return
    assert all(array.shape[0] == sum(result.layers.values()) for array in result.state().values())
    if ending == "npz":  # it has a checksum, and the other file none
        expected = vdna.state()
        assert all(np.allclose(a, expected[n]) for n, a in result.state().items() if not n.startswith("histogram_"))


@tries(200)
@given(draw=st.data())
def test_ranges_files(ranges: HistogramAxes, draw: st.DataObject) -> None:
    data = ranges.to_json().encode()
    changed = damaged(data, draw.draw(changes(len(data)))).decode(errors="surrogateescape")
    result = outcome(lambda: HistogramAxes.from_json(changed), ValueError)
    if isinstance(result, ValueError):
        assert "not a ranges file" in str(result)
        return
    neurons = sum(result.layers.values())
    assert result.low.shape == result.high.shape == (neurons,)
    assert (result.low <= result.high).all()
