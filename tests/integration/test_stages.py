"""Each stage by itself: axes, the matrix, bad data; and that the matrix makes sense."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distributions import VDNA, IncompatibleError, ShardRecord, emd, fd, nfd
from extractors import build
from pipeline import open_catalogue
from pipeline.catalogue.copies import copy, verify
from pipeline.catalogue.index import read as read_index
from pipeline.catalogue.targets import target
from pipeline.catalogue.writer import Store
from pipeline.config.networks import named_extractor
from pipeline.data.plan import network_spec
from pipeline.errors import UserError
from pipeline.formats.manifests import Manifests
from pipeline.stages import calibrate, compare, publish
from pipeline.stages.context import RunContext
from pipeline.storage.folder import ObjectStore
from tests.helpers import synthetic
from tests.helpers.runs import digest, do, manifest, of

pytestmark = pytest.mark.usefixtures("in_process")


FOUR = "distributions=[histogram-100,gaussian,layer-gaussian,activation-ranges]"


class TestRanges:
    def test_one_set_for_all_datasets(self, quiet: RunContext, tars: Path, tmp_path: Path) -> None:
        shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
        s = do(of(tars / "00.tar", tmp_path / "catalogue", name="other"))
        cat = open_catalogue(s.settings.catalogue)
        assert len(set(cat.index()["ranges"])) == 1
        assert float(cat.distances("test_vit", "emd").overall.sel(dataset="faces", other="other")) > 0

    def test_other_ranges_are_not_compared(
        self, quiet: RunContext, tars: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
        current = quiet.spec().ranges
        (tmp_path / "ranges.json").write_text(
            type(current)(current.layers, current.minimum - 1, current.maximum).to_json()
        )
        s = do(of(tars / "00.tar", tmp_path / "catalogue", f"ranges={tmp_path / 'ranges.json'}", name="other"))
        assert "faces is left out, it was measured otherwise (ranges)" in caplog.text
        cat = open_catalogue(s.settings.catalogue)
        assert cat.distances("test_vit", "emd")["dataset"].to_numpy().tolist() == ["other"]
        with pytest.raises(IncompatibleError, match="activation ranges"):
            emd(cat.vdna("faces", "test_vit"), cat.vdna("other", "test_vit"))
        # by its id, the first set is still there to use
        do(of(tars / "00.tar", tmp_path / "catalogue", f"ranges={quiet.spec().ranges.id}", name="third"))
        assert cat.distances("test_vit", "emd").sizes["dataset"] == 1  # what was opened stays as it was
        cat = open_catalogue(s.settings.catalogue)
        assert set(cat.distances("test_vit", "emd")["dataset"].to_numpy().tolist()) == {"faces", "third"}

    def test_a_dataset_without_numbers_stops_no_other(
        self, quiet: RunContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
        s = RunContext(replace(quiet.settings, catalogue=str(tmp_path / "catalogue")))
        spec, generator = s.spec(), torch.Generator().manual_seed(0)
        for name, broken in (("overflows", np.nan), ("other", 0.0)):
            vdna = VDNA(spec)
            for layer, neurons in spec.layers.items():
                values = torch.randn(4, 6, neurons, generator=generator)
                values[..., 1] = broken
                vdna.update(layer, values)
            vdna.ledger.add(ShardRecord(name, size=1, counted=4))
            s.store.put_vdna(vdna, name, {"fingerprint": "", "provenance": {}})
        compare.run(s)
        assert "overflows is left out: a neuron had no finite activation" in caplog.text
        caplog.clear()
        publish.run(s)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        cat = open_catalogue(s.settings.catalogue)
        assert cat.matrix("test_vit").frame.index.tolist() == ["faces", "other"]
        for distance in (emd, nfd, fd):
            with pytest.raises(IncompatibleError, match="only NaN"):
                distance(cat.vdna("faces"), cat.vdna("overflows"))

    @pytest.mark.parametrize("kinds", [synthetic.FULL, synthetic.FAST, ("gaussian",), ("layer-gaussian",)])
    def test_every_kind_tells_a_dataset_without_numbers(self, kinds: tuple[str, ...], tmp_path: Path) -> None:
        store, spec = Store(str(tmp_path)), synthetic.spec_of(distributions=kinds)
        for name, broken in (("overflows", np.nan), ("other", 0.0)):
            vdna = VDNA(spec)
            for layer, neurons in spec.layers.items():
                values = torch.ones(4, 3, neurons)
                values[..., 1] = broken
                vdna.update(layer, values)
            entry = store.put_vdna(vdna, name, {"fingerprint": "", "provenance": {}})
            assert compare._is_comparable(store, spec, entry) == (name == "other")

    def test_unknown_ranges_are_refused(self, quiet: RunContext, tars: Path) -> None:
        with pytest.raises(UserError, match="ranges=nope: neither a file nor an id"):
            calibrate.run(of(tars, Path(quiet.settings.catalogue), "ranges=nope"))

    def test_histograms_without_ranges_name_the_remedy(self, tars: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="add calibrate to stages"):
            do(of(tars, tmp_path, "stages=[plan,extract]"))

    def test_a_sample_of_the_tasks(self, tars: Path, tmp_path: Path) -> None:
        s = of(tars, tmp_path, "calibration.max_tasks=3", "stages=[plan,calibrate]")
        do(s)
        assert len(s.store.partials(s.plan.network_spec.id)) == 3


class TestStages:
    def test_each_can_be_asked_for_alone(self, tars: Path, tmp_path: Path, quiet: RunContext) -> None:
        for stage in ("plan", "calibrate", "extract", "reduce", "compare", "publish"):
            s = do(of(tars, tmp_path, f"stages=[{stage}]"))
        assert digest(s) == digest(quiet)
        assert (tmp_path / "site" / "index.html").exists()

    def test_out_of_order_is_named(self, tars: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no plan for dataset faces.*add plan to stages"):
            do(of(tars, tmp_path, "stages=[extract]"))
        with pytest.raises(UserError, match=r"partial \w+ is not there yet: add extract to stages"):
            do(of(tars, tmp_path, "stages=[plan,calibrate,reduce]"))
        with pytest.raises(UserError, match="nothing to publish yet, add reduce"):
            publish.run(of(tars, tmp_path / "new"))

    def test_a_plan_for_another_network_is_not_worked_on(self, tars: Path, tmp_path: Path) -> None:
        do(of(tars, tmp_path, "stages=[plan,calibrate]"))
        for change in ("precision=bf16", "extractor.preprocess.size=96", "extractor.seed=1", "layers=[norm]"):
            with pytest.raises(UserError, match=r"the plan was made for another network .*add plan to stages"):
                do(of(tars, tmp_path, "stages=[extract]", change))


def test_the_architecture_and_the_modules_are_in_the_spec() -> None:
    specs = {
        network_spec(build(named_extractor("test_vit", weights="random", **options))).network_id
        for options in ({"layers": {"x": "blocks.0"}}, {"layers": {"x": "blocks.1"}}, {"layers": {"y": "blocks.0"}})
    }
    assert len(specs) == 3
    packaged = named_extractor("efficientnet_lite0")
    lite0, other = (build(replace(packaged, model=model)) for model in (packaged.model, "efficientnet_lite0"))
    assert lite0.weights_sha256 == other.weights_sha256  # same tensors, other padding
    assert network_spec(lite0).network_id != network_spec(other).network_id


def test_ranges_alone_have_no_distances(tars: Path, tmp_path: Path) -> None:
    s = do(of(tars / "00.tar", tmp_path, "distributions=[activation-ranges]"))
    assert manifest(s)["images"] == 16
    assert s.store.get_distances("test_vit", s.spec().id) is None


def test_sample_pictures_where_they_are_asked_for(tars: Path, tmp_path: Path) -> None:
    s = do(of(tars / "00.tar", tmp_path / "c", "thumbnails=3"))
    index = read_index(ObjectStore(s.settings.catalogue))
    assert index is not None
    paths = index["vdnas"][0]["thumbnails"]
    assert len(paths) == len(set(paths)) == 3
    for path in paths:
        with Image.open(tmp_path / "c" / path) as picture:
            assert max(picture.size) <= 160
            assert picture.format == "JPEG"
    assert verify(s.store)[2] == []
    do(of(tars / "00.tar", tmp_path / "c"))  # none are asked for: those that are there stay
    assert read_index(ObjectStore(s.settings.catalogue)) == index
    do(of(tars / "00.tar", tmp_path / "c", "thumbnails=99"))
    more = read_index(ObjectStore(s.settings.catalogue))
    assert more is not None
    assert len(more["vdnas"][0]["thumbnails"]) == 16
    assert more["vdnas"][0]["version"] == 1
    copy(s.store, target(str(tmp_path / "there")))
    do(of(tars / "00.tar", tmp_path / "c", "thumbnails=0"))
    assert open_catalogue(s.settings.catalogue).manifest("faces", "test_vit")["thumbnails"] == []
    (tmp_path / "there" / paths[0]).write_bytes(b"something else")
    assert [paths[0] in words for words in verify(Manifests(str(tmp_path / "there")))[2]] == [True]
