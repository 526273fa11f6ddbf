"""Every case of the dirty corpus has the right count or the right reason in the ledger; no image twice, none lost."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from extractors import Preprocess, build
from extractors.preprocess import transform
from pipeline.config.networks import named_extractor
from pipeline.data import decode as decoding
from pipeline.data.decode import BadImage, decode
from pipeline.data.discovery import find
from pipeline.data.indexed import open_parquet, open_zip
from pipeline.data.plan import network_spec
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Shard, Task
from pipeline.errors import SourceChangedError
from pipeline.extraction.worker import Job, Worker
from tests.helpers.commands import ROOT, TINY, context
from tests.helpers.dirty import FILES, Case, cases, reasons, write
from tests.helpers.dirty_pictures import pictures
from tests.helpers.runs import do, manifest


@pytest.fixture(scope="module")
def worker() -> Worker:
    config = named_extractor("test_vit", weights="random")
    spec = replace(network_spec(build(config)), distributions=("gaussian",))
    return Worker(Job(config, spec, batch_size=8))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_right_count_or_the_right_reason(worker: Worker, case: Case, tmp_path: Path) -> None:
    (tmp_path / case.name).write_bytes(case.data)
    vdna = worker.vdna(Task(0, tuple(find(str(tmp_path / case.name)))))
    assert (vdna.ledger.counted, vdna.ledger.skipped) == (case.counted, case.skipped)
    assert bool(vdna.ledger.damaged) == case.damaged
    assert set(vdna.state()["count"].tolist()) == {case.counted}  # what counts was measured, and nothing else


@pytest.mark.parametrize(("name", "data", "reason"), pictures(), ids=[name for name, *_ in pictures()])
def test_a_picture_or_the_reason(name: str, data: bytes, reason: str) -> None:
    if not reason:
        picture = decode(data)
        assert (picture.shape[2:], picture.dtype) == ((3,), np.uint8)
        return
    with pytest.raises(BadImage) as error:
        decode(data)
    assert error.value.reason == reason


def test_files_that_wait_to_be_decoded_are_bounded_by_bytes(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one file at a time, one file at a time is read; and the numbers are the same."""
    for name, data, _ in pictures():
        (tmp_path / name).write_bytes(data)
    task = Task(0, tuple(find(str(tmp_path))))
    before = worker.vdna(task).digest()
    read, decoded, most = 0, 0, 0
    read_files, decodes = ShardReader._files, worker._walk._input

    def files(reader: ShardReader) -> Iterator[tuple[str, bytes | BadImage]]:
        nonlocal read, most
        for entry in read_files(reader):
            read += 1
            most = max(most, read - decoded)
            yield entry

    def slow(key: str, data: bytes | BadImage) -> torch.Tensor | BadImage:
        nonlocal decoded
        result = decodes(key, data)
        decoded += 1
        return result  # type: ignore[return-value]

    monkeypatch.setattr("pipeline.extraction.feed.AHEAD_BYTES", 1)
    monkeypatch.setattr(ShardReader, "_files", files)
    monkeypatch.setattr(worker._walk, "_input", slow)
    assert worker.vdna(task).digest() == before
    assert (read, decoded) == (len(pictures()), len(pictures()))
    assert most <= 3


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's
def test_decoding_on_the_device_gives_the_same_reasons(tmp_path: Path) -> None:
    for name, data, _ in pictures():
        (tmp_path / name).write_bytes(data)
    task = Task(0, tuple(find(str(tmp_path))))
    ledgers = []
    for resize in ("clean", "device"):
        config = named_extractor("test_vit", weights="random", preprocess={"resize": resize})
        spec = replace(network_spec(build(config)), distributions=("gaussian",))
        ledgers.append(Worker(Job(config, spec, batch_size=8)).vdna(task).ledger)
    clean, device = ({record.part: (record.counted, record.skipped) for record in ledger} for ledger in ledgers)
    assert clean == device
    assert ledgers[1].counted > 8
    assert ledgers[1].skipped


@pytest.mark.usefixtures("in_process")
def test_the_whole_corpus_at_once(tmp_path: Path) -> None:
    """Through plan, calibration, actors, partials and merge: each file's images are in its records, once."""
    (tmp_path / "dirty").mkdir()
    write(tmp_path / "dirty")
    where = ("dataset=images", "dataset.name=dirty", f"dataset.url={tmp_path / 'dirty'}", f"catalogue={tmp_path / 'c'}")
    few = ("distributions=[histogram-20,gaussian]", "images_per_shard=7", "shards_per_task=3", "max_bad_fraction=1")
    s = do(context(*where, *TINY, *few, "batch_size=8", "threads=1", "decode_threads=2", "actors=2"))
    vdna = s.store.get_vdna(manifest(s))
    counted: Counter[str] = Counter()
    skipped: dict[str, Counter[str]] = {}
    for record in vdna.ledger:
        name = record.url.rpartition("/")[2]
        counted[name] += record.counted
        skipped.setdefault(name, Counter()).update(record.skipped)
    # Damage where it is named, but in a folder a Parquet file without images is one that describes images, or nothing.
    met = [case for case in cases() if case.name not in ("texts.parquet", "no_images.parquet", "zero_bytes.parquet")]
    expected = {case.name: (case.counted, dict(case.skipped)) for case in met}
    expected["loose"] = reasons()
    assert {name: (counted[name], dict(skipped[name])) for name in skipped} == expected
    assert {r.url.rpartition("/")[2] for r in vdna.ledger.damaged} == {c.name for c in met if c.damaged}
    assert set(vdna.state()["count"].tolist()) == {vdna.images} == {sum(n for n, _ in expected.values())}


@pytest.mark.parametrize("images_per_shard", [1, 2, 3])
def test_a_name_that_is_twice_in_a_zip_counts_once(images_per_shard: int, tmp_path: Path) -> None:
    """However its entries fall into shards."""
    case = next(case for case in cases() if case.name == "twice.zip")
    (tmp_path / case.name).write_bytes(case.data)
    shards = find(str(tmp_path / case.name), images_per_shard)
    images = [data for shard in shards for _, data in ShardReader(shard)]
    assert [data.reason for data in images if isinstance(data, BadImage)] == ["duplicate name"]
    assert sorted(data for data in images if isinstance(data, bytes)) == sorted([FILES["000.png"], FILES["001.png"]])


def test_a_fault_of_the_store_is_no_damage() -> None:
    """zipfile calls any OSError a file that is no zip."""

    class Faulty(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionError("gone")

    for opening in (open_zip, open_parquet):
        with pytest.raises(ConnectionError, match="gone"):
            opening(Faulty(bytes(9999)))


@pytest.mark.parametrize("name", ["whole.zip", "whole.parquet"])
def test_an_archive_that_could_not_be_planned_is_not_empty(name: str, tmp_path: Path) -> None:
    case = next(case for case in cases() if case.name == name)
    (tmp_path / name).write_bytes(case.data)
    with pytest.raises(
        SourceChangedError, match="when it was planned: run the command again, with plan among its stages"
    ):
        list(ShardReader(Shard(name.rpartition(".")[2], str(tmp_path / name), len(case.data), "")))


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = next(data for name, data, _ in pictures() if name == "baseline.jpg")
    for bound in ("MAX_BYTES", "MAX_PIXELS", "MAX_SIDE"):
        with monkeypatch.context() as patch:
            patch.setattr(decoding, bound, 20)
            with pytest.raises(BadImage, match="too large"):
                decode(whole)


def test_a_picture_in_strips_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: decode(data) for name, data, reason in pictures() if not reason}
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 100)
    for name, data, reason in pictures():
        if not reason:
            np.testing.assert_array_equal(decode(data), whole[name], err_msg=name)


SHAPES = [(1, 1), (1, 5000), (5000, 1), (375, 500), (3, 3), (37, 1001), (999, 750), (224, 224), (223, 225), (500, 224)]


@pytest.mark.parametrize("size", [1, 7, 160, 224])
@pytest.mark.parametrize("shape", SHAPES)
def test_resizing(shape: tuple[int, int], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is Pillow's within a thousandth of a grey level. Pillow in strips may be off by one bit of a float32."""
    picture = np.random.default_rng(size).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours, pillows = (Preprocess(size, (0.5,) * 3, (0.25,) * 3, resize) for resize in ("clean", "clean-pillow"))
    whole = pillows(picture)
    torch.testing.assert_close(ours(picture), whole, rtol=0, atol=1e-3 / 255 / 0.25)
    for strip in (1, 5000, 100_000):
        if strip == 1 and shape[0] > 500:
            continue
        with monkeypatch.context() as patch:
            patch.setattr(transform, "STRIP_PIXELS", strip)
            torch.testing.assert_close(pillows(picture), whole, rtol=0, atol=5e-7)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (333, 250), (500, 375)])
def test_jpegs_have_pillows_pixels(size: tuple[int, int], mode: str) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    for subsampling, progressive, quality in product((0, 1, 2), (False, True), (30, 95)):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", subsampling=subsampling, progressive=progressive, quality=quality)
        assert decoding._usual_jpeg(buffer.getvalue()) is not None
        np.testing.assert_array_equal(decode(buffer.getvalue()), np.asarray(Image.open(buffer).convert("RGB")))


def test_reduced_is_nearly_the_same_and_never_too_small() -> None:
    y, x = np.mgrid[0:900, 0:1300]
    picture = np.stack([x // 6, y // 4, (x + y) // 9], 2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95)
    reduced = Preprocess(100, (0.5,) * 3, (0.25,) * 3, "reduced")
    assert decode(buffer.getvalue(), reduced.least_side).shape == (225, 325, 3)
    assert decode(buffer.getvalue()).shape == (900, 1300, 3)
    whole = Preprocess(100, (0.5,) * 3, (0.25,) * 3)(decode(buffer.getvalue()))
    difference = reduced(decode(buffer.getvalue(), reduced.least_side)) - whole
    assert 0 < difference.abs().mean() * 0.25 * 255 < 1


def test_a_name_that_is_no_text_places_a_crop() -> None:
    crop = Preprocess(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop="random")
    picture = np.random.default_rng(0).integers(0, 256, (20, 90, 3), dtype=np.uint8)
    assert torch.equal(crop(picture, "\udcff.png"), crop(picture, "\udcff.png"))


def test_pillows_warnings_alone_are_quiet_in_all_threads() -> None:
    """A filter that each image sets and takes back is at times taken from another thread's image, or stays."""
    data = next(data for name, data, _ in pictures() if name == "broken_exif.jpg")
    failed: list[BadImage] = []

    def work() -> None:
        for _ in range(100):
            try:
                decode(data)
            except BadImage as bad:
                failed.append(bad)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
    assert not failed


MEASURE = """
import json, resource, sys
from pathlib import Path
from extractors import Preprocess
from pipeline.data.decode import decode

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

transform = Preprocess(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), sys.argv[2])
transform(decode(Path(sys.argv[1]).with_suffix(".small.png").read_bytes()))
before = peak()
transform(decode(Path(sys.argv[1]).read_bytes()))
print(json.dumps(peak() - before))
"""


@pytest.mark.parametrize("resize", ["clean", "clean-pillow"])
def test_a_large_picture_takes_little_more_than_itself(resize: str, tmp_path: Path) -> None:
    """Four bytes a pixel in Pillow and three as an array, but not the twelve of floating-point numbers."""
    side = 7000
    for name, n in (("x.png", side), ("x.small.png", 100)):
        Image.new("RGB", (n, n), (1, 2, 3)).save(tmp_path / name, compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "x.png"), resize],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) < 9 * side**2
