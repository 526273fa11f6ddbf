"""A published catalogue of forty datasets, and a cache of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributions import VDNA
from pipeline.catalogue.writer import Store
from tests.helpers import synthetic
from tests.helpers.catalogues import DATASETS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Forty datasets of a few kinds under one spec, published."""
    return synthetic.make(tmp_path_factory.mktemp("catalogue"), DATASETS, images=16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDNA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def stranger() -> VDNA:
    """A set of images that is none of the catalogue's."""
    return synthetic.filled(synthetic.spec_of(), "a-stranger", 2, 16)
