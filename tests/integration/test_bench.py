"""The measurements run, small, and give the figures that they promise; what these say is not looked at."""

from __future__ import annotations

import io
from itertools import islice

import pytest
from PIL import Image

from bench import decode, extract, kernels, matrix, memory, pictures, store
from bench.figures import Figures, table
from bench.pictures import jpegs
from pipeline.data import demo

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers'


def assert_sound(made: Figures, *names: str) -> None:
    assert made.keys() >= set(names)
    for name, figure in made.items():
        low, high = figure["spread"]
        assert 0 < low <= figure["value"] <= high, name
        assert name in table(made)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (decode, extract, kernels, matrix, memory, store):
        monkeypatch.setattr(module, "ROUNDS", 1)
    for module in (demo, pictures):
        monkeypatch.setattr(module, "CUT", {"demo_textures": (["brick.png"], 2)})


def test_extract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "NETWORKS", {"vit_tiny": "test_vit"})
    monkeypatch.setattr(extract, "IMAGES", {"vit_tiny": 8})
    monkeypatch.setattr(extract, "SEED_IMAGES", 4)
    monkeypatch.setattr(extract, "BATCH", 4)
    assert_sound(extract.measure(), "extract_vit_tiny", "extract_vs_seed")


def test_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "NEURONS", 8)
    monkeypatch.setattr(kernels, "CALLS", 1)
    assert_sound(kernels.measure(), "hist_kernel_ns", "hist_kernel_2core")


def test_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATASETS": 3, "BINS": 20, "SAMPLE": 2, "WIDTH": 20, "IMAGES": 60, "MADE": 2}.items():
        monkeypatch.setattr(matrix, name, value)
    monkeypatch.setattr(matrix, "VIT_B", {"a": 5, "norm": 5})
    monkeypatch.setattr(matrix, "NEURONS", 10)
    assert_sound(matrix.measure(), "emd_pair_ms", "emd_vs_seed", "fd_vs_seed", "fd_vs_torchmetrics")


def test_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "FILES", {(50, 40): 2})
    assert_sound(decode.measure(), "decode_50_vs_seed")


def test_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VIT_B", {"a": 4, "b": 4})
    assert_sound(store.measure(), "store_write", "store_read", "store_merge")


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FEW", 2)
    monkeypatch.setattr(memory, "MANY", 4)
    assert_sound(memory.measure(), "memory_20k_vs_1k")


def test_pictures_are_all_different() -> None:
    files = list(islice(jpegs(50, 40), 3))
    assert len(set(files)) == 3
    assert {Image.open(io.BytesIO(data)).size for data in files} == {(50, 40)}
