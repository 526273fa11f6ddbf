"""Runs on data of which some is bad."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import open_catalogue
from pipeline.errors import UserError
from pipeline.stages import extract, plan
from tests.helpers.commands import TINY, context
from tests.helpers.runs import SMALL, do, manifest, of

pytestmark = pytest.mark.usefixtures("in_process")


class TestBadData:
    @pytest.fixture
    def mixed(self, tmp_path: Path) -> Path:
        """Forty images of many kinds, four of them broken."""
        folder, draw = tmp_path / "mixed", np.random.default_rng(0)
        folder.mkdir()
        kinds = ["jpg", "png", "gif", "webp", "tiff", "bmp"]
        for i in range(36):
            noise = Image.fromarray(draw.integers(0, 256, (20 + i, 60 - i, 3), dtype=np.uint8))
            noise.save(folder / f"{i:02d}.{kinds[i % len(kinds)]}")
        whole = (folder / "00.jpg").read_bytes()
        for name, data in (("a.jpg", b""), ("b.jpg", whole[:-300]), ("c.png", b"nothing"), ("d.jpg", b"nothing")):
            (folder / name).write_bytes(data)
        return folder

    def test_the_run_goes_on_and_says_why(self, mixed: Path, tmp_path: Path) -> None:
        where = ("dataset=images", "dataset.name=mixed", f"dataset.url={mixed}", f"catalogue={tmp_path / 'cat'}")
        s = do(context(*where, *TINY, *SMALL, "max_bad_fraction=0.2", "images_per_shard=7"))
        entry = manifest(s)
        assert entry["images"] == 36
        reasons = {"empty file": 1, "not an image of a supported format": 2, "truncated": 1}
        assert entry["skipped_by_reason"] == reasons
        ledger = open_catalogue(s.settings.catalogue).vdna("mixed", "test_vit").ledger
        assert sum(record.seen for record in ledger) == 40

    def test_above_the_fraction_it_stops_and_keeps_what_is_done(self, mixed: Path, tmp_path: Path) -> None:
        where = ("dataset=images", "dataset.name=mixed", f"dataset.url={mixed}", f"catalogue={tmp_path / 'cat'}")
        strict = context(*where, *TINY, *SMALL)
        with pytest.raises(
            UserError, match=r"10\.0% of the data cannot be used, more than max_bad_fraction=0\.05: .*2 not an image"
        ):
            do(strict)
        kept = set((tmp_path / "cat" / "partials").rglob("*.zip"))
        assert kept
        s = do(context(*where, *TINY, *SMALL, "max_bad_fraction=0.5"))
        assert manifest(s)["images"] == 36
        assert kept <= set((tmp_path / "cat" / "partials").rglob("*.zip"))

    def test_the_last_task_may_be_all_bad(self, tars: Path, tmp_path: Path) -> None:
        """What a resumed run does is judged against the whole plan, not against what was left to do."""
        shutil.copytree(tars, tmp_path / "tars")
        with tarfile.open(tmp_path / "tars" / "12.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo("empty.png"))
        s = of(tmp_path / "tars", tmp_path / "cat", "max_bad_fraction=0.1")
        do(s)
        last = s.plan.tasks[-1]
        (tmp_path / "cat" / "partials" / s.spec().id / f"{last.id}.zip").unlink()
        shutil.rmtree(tmp_path / "cat" / "vdnas")
        assert manifest(do(s))["skipped"] == 1

    def test_damaged_tars_are_in_the_ledger(self, tars: Path, tmp_path: Path) -> None:
        shutil.copytree(tars, tmp_path / "tars")
        path = tmp_path / "tars" / "05.tar"
        path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 4])
        s = do(of(tmp_path / "tars", tmp_path / "cat"))
        [damaged] = open_catalogue(s.settings.catalogue).vdna("faces", "test_vit").ledger.damaged
        assert damaged.url.endswith("05.tar")
        assert damaged.damage
        assert manifest(s)["damaged_shards"] == 1

    def test_a_shard_that_vanishes_fails_alone(self, tars: Path, tmp_path: Path) -> None:
        shutil.copytree(tars, tmp_path / "tars")
        s = of(tmp_path / "tars", tmp_path / "cat", "attempts=2", "distributions=[gaussian]")
        plan.run(s)
        (tmp_path / "tars" / "05.tar").unlink()
        with pytest.raises(UserError, match=r"1 of 12 task\(s\) failed: task 5: FileNotFoundError.*same command tries"):
            extract.run(s)
        assert len(s.store.partials(s.spec().id)) == 11

    def test_no_usable_image_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "x.jpg").write_bytes(b"nothing")
        where = ("dataset=images", "dataset.name=x", f"dataset.url={tmp_path}", f"catalogue={tmp_path / 'cat'}")
        with pytest.raises(UserError, match="1 not an image of a supported format"):
            do(context(*where, *TINY, *SMALL))
