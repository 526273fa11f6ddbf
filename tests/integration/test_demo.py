"""The demo's images: real WebDataset tars, deterministic, no picture in two sets."""

from __future__ import annotations

import gc
import hashlib
import io
import json
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from pipeline.data import demo


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.tar"))
    }


def test_the_same_bytes_each_time(demo_data: Path, tmp_path: Path) -> None:
    demo.write(tmp_path)
    assert digests(tmp_path) == digests(demo_data)
    assert len(digests(tmp_path)) == 5 * demo.SHARDS


def test_what_is_there_is_left_alone(demo_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo_data.rglob("*")}
    demo.write(demo_data)
    assert {path: path.stat().st_mtime_ns for path in demo_data.rglob("*")} == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_them_and_no_picture_feeds_two_sets(demo_data: Path) -> None:
    pictures: dict[str, set[str]] = {}
    for name in demo.SETS:
        shards = [str(path) for path in sorted((demo_data / name).glob("*.tar"))]
        samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
        gc.collect()  # webdataset leaves its files open
        assert 200 <= len(samples) <= 300
        kinds = {kind for sample in samples for kind in sample.keys() & {"jpg", "png"}}
        assert kinds == {"jpg", "png"}
        for sample in samples:
            with Image.open(io.BytesIO(sample.get("jpg") or sample["png"])) as image:
                image.load()
            origin = json.loads(sample["json"])["origin"]
            pictures.setdefault(name, set()).add(origin.split(",")[0])
    everything = [picture for origins in pictures.values() for picture in origins]
    assert len(everything) == len(set(everything))
