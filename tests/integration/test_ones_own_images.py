"""Images of one's own beside the catalogue that holds the same images."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import open_catalogue
from pipeline.cli.catalogue import main
from pipeline.measure import images
from pipeline.measure.images import against, measured
from pipeline.stages.context import RunContext

pytestmark = pytest.mark.usefixtures("in_process")


class TestOneOwn:
    """Images of one's own beside the catalogue that holds the same images."""

    @pytest.fixture(autouse=True)
    def _network(self, quiet: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VDNA_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(images, "named_extractor", lambda name, precision: quiet.settings.extractor)

    def test_they_are_measured_as_the_catalogue_was_and_once(
        self, quiet: RunContext, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cat, mine = open_catalogue(quiet.settings.catalogue), tmp_path / "mine.tar"
        shutil.copy(tars / "00.tar", mine)
        first = measured(cat, mine)
        theirs = cat.vdna("faces").load()
        assert first.spec.id == theirs.spec.id
        assert 0 < first.images < theirs.images
        assert 0 < cat.nearest(first).loc["faces"] < 100
        with monkeypatch.context() as patched:
            patched.setattr(images, "make_vdna", None)
            assert measured(cat, mine).digest() == first.digest()
            kept = next((tmp_path / "cache").glob("measured/*/*/*.zip"))
            whole = kept.read_bytes()
            kept.write_bytes(whole[:-9])
            with pytest.raises(TypeError):
                measured(cat, mine)  # what has rotted is not believed
        whole, before = mine.read_bytes(), mine.stat()
        mine.write_bytes(whole[:700] + bytes(100) + whole[800:])  # the same size and time, other contents
        os.utime(mine, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert measured(cat, mine).digest() != first.digest()

    def test_a_cache_that_cannot_be_written_is_none(
        self, quiet: RunContext, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("VDNA_CACHE", str(tmp_path / "file"))
        assert measured(open_catalogue(quiet.settings.catalogue), tars / "00.tar").images

    def test_single_images_are_ranked_and_the_broken_named(
        self, quiet: RunContext, tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "own"
        with tarfile.open(tars / "00.tar") as tar:
            tar.extractall(folder, filter="data")
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "black.png")
        (folder / "broken.png").write_bytes(b"nothing")
        ranking = against(open_catalogue(quiet.settings.catalogue), folder, "faces")
        assert ranking["image"].iloc[0].endswith("black.png")
        assert ranking["emd"].iloc[:-1].is_monotonic_decreasing
        assert ranking.iloc[-1]["differs most in"] == "not an image of a supported format"
        assert len(ranking) == len(list(folder.iterdir()))
        assert main(["--catalogue", quiet.settings.catalogue, "nearest", str(folder)]) == 0
        captured = capsys.readouterr()
        assert "17 images; left out: 1 not an image of a supported format" in captured.err
        assert captured.out.splitlines()[1].startswith("faces\t")
