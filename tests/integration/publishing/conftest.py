"""A small published catalogue, a copy of it for each test, and a cache of each test's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers import synthetic


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of eight datasets, published."""
    folder = tmp_path_factory.mktemp("original") / "c"
    synthetic.make(folder, 8, images=8)
    return folder


@pytest.fixture
def catalogue(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "c")
    return tmp_path / "c"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDNA_CACHE", str(tmp_path / "cache"))
