"""One walk over a dataset's images serves any sinks of any networks. Sinks get records of images beside activations."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import xarray as xr
from PIL import Image

from extractors import Extractor, build
from pipeline.config.networks import named_extractor
from pipeline.data.discovery import find
from pipeline.data.plan import network_spec
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Task
from pipeline.extraction.sinks import ImageRecord, VDNASink
from pipeline.extraction.walk import Pass, Walk
from pipeline.extraction.worker import Job, Worker
from pipeline.formats import groups
from pipeline.formats.rows import Rows, hashes

COUNT = 11
BROKEN = 4
"""An image that cannot be decoded."""


class Means:
    """A sink whose rows are images: the mean over positions and neurons of one layer, and each image's record."""

    def __init__(self, layer: str, device: torch.device) -> None:
        self.layer, self.rows = layer, dict[int, tuple[ImageRecord, float]]()

    def update(self, layer: str, activations: torch.Tensor, images: Sequence[ImageRecord]) -> None:
        if layer == self.layer:
            means = activations.mean(dim=(1, 2)).tolist()
            self.rows |= {image.number: (image, mean) for image, mean in zip(images, means, strict=True)}

    def merge(self, other: Self) -> None:
        assert not self.rows.keys() & other.rows.keys()
        self.rows |= other.rows


def images() -> list[bytes]:
    draw, files = np.random.default_rng(0), []
    for _ in range(COUNT):
        buffer = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    files[BROKEN] = files[BROKEN][:30]
    return files


def parts(number: int) -> dict[str, bytes]:
    """What lies beside an image; of the last there is nothing."""
    if number == COUNT - 1:
        return {}
    return {"cls": f"{number % 3}\n".encode(), "json": json.dumps({"caption": f"no. {number} é"}).encode()}


def name(number: int) -> str:
    return f"class_{number % 2}/{number:03d}"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same images, with the same files beside them, as every kind of source."""
    base = tmp_path_factory.mktemp("walk")
    members = [(f"{name(n)}.{part}", data) for n, image in enumerate(images()) for part, data in _order(n, image)]
    for file, data in members:
        (base / "folder" / file).parent.mkdir(parents=True, exist_ok=True)
        (base / "folder" / file).write_bytes(data)
    with tarfile.open(base / "all.tar", "w") as tar, tarfile.open(base / "all.tar.gz", "w:gz") as packed:
        for file, data in members:
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
            packed.addfile(entry, io.BytesIO(data))
    with zipfile.ZipFile(base / "all.zip", "w") as archive:
        for file, data in members:
            archive.writestr(file, data)
    rows = [{"image": image, **dict.fromkeys(("cls", "json")), **parts(n)} for n, image in enumerate(images())]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), base / "all.parquet", row_group_size=4)
    return {
        "folder": str(base / "folder"),
        **{kind: str(base / f"all.{kind}") for kind in ("tar", "tar.gz", "zip", "parquet")},
    }


def _order(number: int, image: bytes) -> list[tuple[str, bytes]]:
    """A sample's files; the image is the first, the second or the last of them."""
    files = list(parts(number).items())
    files.insert(number % 3, ("png", image))
    return files


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "zip", "parquet"])
def test_the_other_parts_of_a_sample_come_with_its_image(kind: str, sources: dict[str, str]) -> None:
    shards = find(sources[kind])
    samples = [sample for shard in shards for sample in ShardReader(shard, parts=("cls", "json", "txt")).samples()]
    by_data = {sample.data: sample for sample in samples}
    assert [by_data[image].parts for image in images()] == [parts(n) for n in range(COUNT)]
    assert {sample.folder for sample in samples} == ({""} if kind == "parquet" else {"class_0", "class_1"})
    plain = [(key, data) for shard in shards for key, data in ShardReader(shard)]
    assert plain == [(sample.key, sample.data) for sample in samples]
    assert not any(sample.parts for shard in shards for sample in ShardReader(shard).samples())


def test_parts_that_were_not_asked_for_change_no_digest(sources: dict[str, str]) -> None:
    for kind in ("tar", "zip", "parquet"):
        for shard in find(sources[kind]):
            readers = [ShardReader(shard), ShardReader(shard, parts=("cls",))]
            for reader in readers:
                list(reader)
            assert readers[0].sha256 == readers[1].sha256, kind


def test_a_part_that_an_archive_breaks_off_in_is_left_out(sources: dict[str, str], tmp_path: Path) -> None:
    whole = Path(sources["tar"]).read_bytes()
    with tarfile.open(sources["tar"]) as tar:
        entry = tar.getmembers()[2]  # the first sample's last part
    assert entry.name.endswith(".json")
    (tmp_path / "cut.tar").write_bytes(whole[: entry.offset_data + 3])
    (shard,) = find(str(tmp_path / "cut.tar"))
    reader = ShardReader(shard, parts=("cls", "json"))
    assert [sample.parts for sample in reader.samples()] == [{"cls": parts(0)["cls"]}]
    assert "breaks off" in reader.damage


@pytest.fixture(scope="module")
def extractor() -> Any:
    return build(named_extractor("test_vit", weights="random"))


@pytest.fixture(scope="module")
def another() -> Any:
    return build(named_extractor("test_vit", weights="random", seed=1))


@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "parquet"])
@pytest.mark.parametrize("threads", [1, 3])
def test_sinks_of_several_networks_share_one_walk(
    kind: str, threads: int, sources: dict[str, str], extractor: Extractor, another: Extractor
) -> None:
    task = Task(0, tuple(find(sources[kind])))
    layer = list(extractor.layers)[-1]
    sinks = [partial(VDNASink, network_spec(extractor)), partial(Means, layer)]
    walk = Walk([Pass(extractor, sinks), Pass(another, [partial(Means, layer)])], 2, threads, parts=("cls",))
    ledger, ((counted, means), (others,)) = walk.run(task)
    assert isinstance(counted, VDNASink)
    assert isinstance(means, Means)
    assert isinstance(others, Means)
    alone = Worker(Job(extractor.config, network_spec(extractor), 2, threads), extractor).vdna(task)  # type: ignore[attr-defined]
    counted.vdna.ledger = ledger
    assert counted.vdna.digest() == alone.digest()
    assert walk.progress() == (COUNT - 1, 1)

    # Tars and tables are read as they are, folders and zips in the order of names.
    order = sorted(range(COUNT), key=name) if kind in ("folder", "zip") else list(range(COUNT))
    numbers = [place for place, n in enumerate(order) if n != BROKEN]
    for sink, network in ((means, extractor), (others, another)):
        assert sorted(sink.rows) == numbers
        expected = _alone(network, layer)
        for place, (record, mean) in sink.rows.items():
            n = order[place]
            assert record.parts.get("cls") == parts(n).get("cls")
            folder = None if kind == "parquet" else f"class_{n % 2}"
            assert record.label == (parts(n)["cls"].decode().strip() if parts(n) else folder)
            assert record.shard in task.shards
            assert kind == "parquet" or record.key.endswith(f"{n:03d}.png")
            assert mean == pytest.approx(expected[n], rel=1e-4, abs=1e-6)


def _alone(network: Extractor, layer: str) -> dict[int, float]:
    """The mean of a layer for each image by itself."""
    means: dict[int, float] = {}
    for n, data in enumerate(images()):
        if n != BROKEN:
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

            def keep(fired: str, activations: torch.Tensor, n: int = n) -> None:
                if fired == layer:
                    means[n] = float(activations.mean())

            network(network.preprocess(pixels)[None], keep)
    return means


def test_networks_that_take_other_inputs_are_refused(extractor: Extractor) -> None:
    other = build(
        replace(named_extractor("test_vit", weights="random"), preprocess={"resize": "clean", "exif": "apply"})
    )
    with pytest.raises(ValueError, match="take one input"):
        Walk([Pass(extractor, []), Pass(other, [])])


def test_what_a_sink_raises_ends_the_task(sources: dict[str, str], extractor: Extractor) -> None:
    class Full(Means):
        def update(self, *_: Any) -> None:
            raise OSError("no room left")

    walk = Walk([Pass(extractor, [partial(Full, "")])], 2)
    with pytest.raises(OSError, match="no room left"):
        walk.run(Task(0, tuple(find(sources["tar"]))))


def test_arrays_whose_rows_are_images_are_stored_and_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "CHUNK_BYTES", 256)
    draw = np.random.default_rng(0)
    features = {kind: draw.normal(size=(11, 16)).astype(kind) for kind in ("float16", "float32")}
    keys = np.array([f"a.tar/{n}.png" for n in range(11)], dtype=object)
    dataset = xr.Dataset({k: (("image", "neuron"), v) for k, v in features.items()}, {"key": ("image", keys)})
    objects = groups.pack(dataset, consolidated=True)
    xr.testing.assert_identical(groups.open_group(objects).load(), dataset)
    rows = Rows(objects.get, hashes(objects), "features")
    for kind, values in features.items():
        region = slice(2, 6)
        names = rows.objects(kind, region)
        assert len(names) == (1 if kind == "float16" else 2), "some of 2 or 3 chunks"
        read = rows.read(kind, region, {name: rows.fetch(name) for name in names})
        np.testing.assert_array_equal(read, values[region])
        assert read.dtype == values.dtype
