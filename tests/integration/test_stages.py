"""Each stage by itself: axes, the matrix, bad data; and that the matrix makes sense."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from distributions import VDNA, IncompatibleError, ShardRecord, emd, fd, nfd
from extractors import build
from pipeline import make_vdna, open_catalogue
from pipeline.catalogue.copies import copy, verify
from pipeline.catalogue.index import read as read_index
from pipeline.catalogue.targets import target
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.config.networks import named_extractor
from pipeline.data.plan import network_spec
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import Manifests
from pipeline.matrix import tiles as tiles_module
from pipeline.matrix.tiles import Tile, Tiler
from pipeline.measure import images
from pipeline.measure.images import against, measured
from pipeline.stages import calibrate, compare, extract, plan, publish
from pipeline.stages.context import RunContext
from pipeline.storage.folder import Folder
from tests.helpers import synthetic
from tests.helpers.commands import TINY, context
from tests.helpers.in_process import in_process
from tests.helpers.runs import SMALL, digest, do, manifest, of

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
        assert caplog.text == ""
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
            found = store.put_vdna(vdna, name, {"fingerprint": "", "provenance": {}})
            assert compare._is_comparable(store, spec, found) == (name == "other")

    def test_unknown_ranges_are_refused(self, quiet: RunContext, tars: Path) -> None:
        with pytest.raises(UserError, match="ranges=nope: neither a file nor an id"):
            calibrate.run(of(tars, Path(quiet.settings.catalogue), "ranges=nope"))

    def test_histograms_without_ranges_name_the_remedy(self, tars: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="add calibrate to stages"):
            do(of(tars, tmp_path, "stages=[plan,extract]"))

    def test_a_sample_of_the_tasks(self, tars: Path, tmp_path: Path) -> None:
        s = of(tars, tmp_path, "calibration.max_tasks=3", "stages=[plan,calibrate]")
        do(s)
        assert len(s.store.partials(s.plan.network.id)) == 3


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
        network_spec(build(named_extractor("test_vit", weights="random", **options))).network
        for options in ({"layers": {"x": "blocks.0"}}, {"layers": {"x": "blocks.1"}}, {"layers": {"y": "blocks.0"}})
    }
    assert len(specs) == 3
    packaged = named_extractor("efficientnet_lite0")
    lite0, other = (build(replace(packaged, model=model)) for model in (packaged.model, "efficientnet_lite0"))
    assert lite0.weights_sha256 == other.weights_sha256  # same tensors, other padding
    assert network_spec(lite0).network != network_spec(other).network


def test_ranges_alone_have_no_distances(tars: Path, tmp_path: Path) -> None:
    s = do(of(tars / "00.tar", tmp_path, "distributions=[activation-ranges]"))
    assert manifest(s)["images"] == 16
    assert s.store.get_distances("test_vit", s.spec().id) is None


@pytest.fixture(scope="module")
def made(quiet: RunContext, tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of three datasets."""
    made = tmp_path_factory.mktemp("three") / "catalogue"
    shutil.copytree(quiet.settings.catalogue, made)
    with in_process():
        for name, tar in (("zero", "00.tar"), ("one", "01.tar")):
            do(of(tars / tar, made, name=name))
    return made


class TestCompare:
    def test_another_spec_stands_beside_the_first(self, quiet: RunContext, tars: Path, tmp_path: Path) -> None:
        """Nothing that was measured is lost when the same names are measured otherwise."""
        shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
        do(of(tars / "00.tar", tmp_path / "catalogue", name="zero"))
        s = do(of(tars, tmp_path / "catalogue", "precision=bf16"))
        cat = open_catalogue(s.settings.catalogue)
        assert len(cat.index()) == 3
        assert cat.distances("test_vit", "emd").sizes["dataset"] == 2
        assert cat.distances("test_vit", "emd", spec=s.spec().id).sizes["dataset"] == 1
        assert cat.manifest("faces", "test_vit")["precision"] == "bf16"  # the newest
        assert cat.manifest("faces", "test_vit", quiet.spec().id)["precision"] == "fp32"

    def test_the_order_of_distributions_does_not_matter(self, quiet: RunContext, tars: Path, tmp_path: Path) -> None:
        shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
        order = "distributions=[gaussian,activation-ranges,histogram-100,layer-gaussian]"
        s = do(of(tars / "00.tar", tmp_path / "catalogue", order, name="zero"))
        assert open_catalogue(s.settings.catalogue).distances("test_vit", "emd").sizes["dataset"] == 2

    @pytest.fixture
    def three(self, made: Path, tars: Path, tmp_path: Path) -> RunContext:
        """A copy of that catalogue, and the run of the last of its datasets."""
        shutil.copytree(made, tmp_path / "catalogue")
        return of(tars / "01.tar", tmp_path / "catalogue", name="one")

    def test_the_matrix_is_what_the_distances_say(self, three: RunContext) -> None:
        cat = open_catalogue(three.settings.catalogue)
        names = ["faces", "one", "zero"]
        vdnas = {name: cat.vdna(name, "test_vit") for name in names}
        for metric, distance in (("emd", emd), ("nfd", nfd), ("fd", fd)):
            matrix = cat.distances("test_vit", metric)
            assert matrix.dims == ("dataset", "other", "layer")
            for a in names:
                for b in names:
                    assert float(matrix.overall.sel(dataset=a, other=b)) == pytest.approx(distance(vdnas[a], vdnas[b]))
                    value = float(matrix.sel(dataset=a, other=b, layer="blocks.2"))
                    assert value == pytest.approx(distance(vdnas[a], vdnas[b], layer="blocks.2"))
            np.testing.assert_array_equal(matrix, matrix.transpose("other", "dataset", "layer"))

    def test_only_new_pairs_are_computed(self, three: RunContext, tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pairs: list[object] = []
        really = Tiler.distances

        def counted(tiler: Tiler, tile: Tile, store: Store) -> object:
            n, m = len(tile.rows), len(tile.columns)
            pairs.extend([1] * (n * (n + 1) // 2 if tile.diagonal else n * m))
            return really(tiler, tile, store)

        monkeypatch.setattr(Tiler, "distances", counted)
        old = three.store.get_distances("test_vit", three.spec().id)
        do(of(tars / "02.tar", Path(three.settings.catalogue), name="two"))
        assert len(pairs) == 4
        new = three.store.get_distances("test_vit", three.spec().id)
        np.testing.assert_array_equal(new["emd"].sel(dataset=old["dataset"], other=old["other"]), old["emd"])
        assert not np.isnan(new["fd"]).any()
        pairs.clear()
        do(of(tars / "03.tar", Path(three.settings.catalogue), name="two"))  # new contents under an old name
        assert len(pairs) == 4

    def test_tiles_by_actors_are_the_same_bytes(
        self, three: RunContext, cluster: None, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Any size of tile, computed here or by actors; nothing of them is left behind."""
        whole = three.store.get_distances("test_vit", three.spec().id)
        partials = three.store.partials(three.spec().id)
        monkeypatch.setattr(compare, "STORE_TILES_FROM", 0.0)
        for memory, actors in ((1, 1), (1 << 22, 2)):
            monkeypatch.setattr(tiles_module, "MEMORY", memory)
            again = tmp_path / f"again{actors}"
            shutil.copytree(three.settings.catalogue, again)
            shutil.rmtree(again / "distances")
            s = do(of(tars / "01.tar", again, f"actors={actors}", "stages=[compare]", name="one"))
            assert s.store.partials(s.spec().id) == partials
            xr.testing.assert_identical(s.store.get_distances("test_vit", s.spec().id), whole)

    def test_what_was_interrupted_goes_on(self, three: RunContext, tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.rmtree(Path(three.settings.catalogue) / "distances")
        monkeypatch.setattr(compare, "STORE_TILES_FROM", 0.0)
        monkeypatch.setattr(tiles_module, "MEMORY", 1)
        really, done = Tiler.run, 0

        def dies(tiler: Tiler, tile: Tile, store: Store) -> object:
            nonlocal done
            done += 1
            if done == 4:
                raise KeyboardInterrupt
            return really(tiler, tile, store)

        monkeypatch.setattr(Tiler, "run", dies)
        with pytest.raises(KeyboardInterrupt):
            compare.run(three)
        compare.run(three)
        todo = len(tiles_module.tiles(three.spec(), three.store.manifests(), [0, 1, 2]))
        assert done == todo + 1  # the one that was interrupted is tried again, and no other
        assert not any(name.startswith("tile-") for name in three.store.partials(three.spec().id))

    def test_a_catalogue_of_before_and_a_damaged_one(self, three: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = three.store.get_distances("test_vit", three.spec().id)
        folder = Path(three.settings.catalogue)
        for path in folder.glob(f"vdnas/*/*/{three.spec().id}.json"):
            said = json.loads(path.read_text())
            assert said.pop("objects")
            path.write_text(json.dumps(said))
        shutil.rmtree(folder / "distances")
        compare.run(three)
        xr.testing.assert_identical(three.store.get_distances("test_vit", three.spec().id), whole)
        shutil.rmtree(folder / "distances")
        chunk = next(folder.glob("vdnas/zero/*/*.zarr/histogram/c/0/0"))
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")
        with pytest.raises(DamagedError, match=r"zarr is damaged"):
            compare.run(three)

    def test_anyone_can_open_it_with_xarray(self, three: RunContext) -> None:
        spec_id = three.spec().id
        group = three.store.distances_manifest("test_vit", spec_id)["group"]
        with xr.open_zarr(Path(three.settings.catalogue) / "distances" / "test_vit" / spec_id / group) as opened:
            assert opened["emd"].dims == ("dataset", "other", "layer")
            assert opened["layer"].to_numpy().tolist()[-1] == "norm"
            assert opened["emd"].attrs["units"] == "bins"

    def test_nearest(self, three: RunContext) -> None:
        near = open_catalogue(three.settings.catalogue).nearest("zero", "test_vit")
        assert set(near.index) == {"faces", "one"}
        assert near.iloc[0] <= near.iloc[1]


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
        found = against(open_catalogue(quiet.settings.catalogue), folder, "faces")
        assert found["image"].iloc[0].endswith("black.png")
        assert found["emd"].iloc[:-1].is_monotonic_decreasing
        assert found.iloc[-1]["differs most in"] == "not an image of a supported format"
        assert len(found) == len(list(folder.iterdir()))
        assert main(["--catalogue", quiet.settings.catalogue, "nearest", str(folder)]) == 0
        said = capsys.readouterr()
        assert "17 images; left out: 1 not an image of a supported format" in said.err
        assert said.out.splitlines()[1].startswith("faces\t")


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
        said = manifest(s)
        assert said["images"] == 36
        reasons = {"empty file": 1, "not an image of a supported format": 2, "truncated": 1}
        assert said["skipped_by_reason"] == reasons
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


@pytest.fixture(scope="module")
def halves(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Forty images of each half of every demo set, the halves drawn at random."""
    folder, found = tmp_path_factory.mktemp("halves"), {}
    for number, source in enumerate(sorted(demo_data.iterdir())):
        images = []
        for path in sorted(source.glob("*.tar")):
            with tarfile.open(path) as tar:
                images += [(m, tar.extractfile(m).read()) for m in tar if not m.name.endswith("json")]
        order = np.random.default_rng(number).permutation(len(images))
        paths = tuple(folder / f"{source.name}-{half}.tar" for half in "ab")
        for path, part in zip(paths, (order[:40], order[len(images) // 2 :][:40]), strict=True):
            with tarfile.open(path, "w") as tar:
                for index in part:
                    tar.addfile(images[index][0], io.BytesIO(images[index][1]))
        found[source.name] = paths
    return found


def test_the_matrix_makes_sense(halves: dict[str, tuple[Path, Path]]) -> None:
    """Each set's two random halves are nearer to each other than to any half of another set."""
    ranges = make_vdna([str(a) for a, _ in halves.values()], distributions=["histogram-1000"]).spec.ranges
    names = ["histogram-1000", "layer-gaussian"]
    vdnas = {k: [make_vdna(p, distributions=names, ranges=ranges) for p in pair] for k, pair in halves.items()}
    for distance in (emd, nfd, fd):
        for name, (a, b) in vdnas.items():
            others = [distance(mine, o) for k, pair in vdnas.items() if k != name for o in pair for mine in (a, b)]
            assert distance(a, b) < min(others), (distance.__name__, name)


def test_sample_pictures_where_they_are_asked_for(tars: Path, tmp_path: Path) -> None:
    s = do(of(tars / "00.tar", tmp_path / "c", "thumbnails=3"))
    index = read_index(Folder(s.settings.catalogue))
    assert index is not None
    paths = index["vdnas"][0]["thumbnails"]
    assert len(paths) == len(set(paths)) == 3
    for path in paths:
        with Image.open(tmp_path / "c" / path) as picture:
            assert max(picture.size) <= 160
            assert picture.format == "JPEG"
    assert verify(s.store)[2] == []
    do(of(tars / "00.tar", tmp_path / "c"))  # none are asked for: those that are there stay
    assert read_index(Folder(s.settings.catalogue)) == index
    do(of(tars / "00.tar", tmp_path / "c", "thumbnails=99"))
    more = read_index(Folder(s.settings.catalogue))
    assert more is not None
    assert len(more["vdnas"][0]["thumbnails"]) == 16
    assert more["vdnas"][0]["version"] == 1
    copy(s.store, target(str(tmp_path / "there")))
    do(of(tars / "00.tar", tmp_path / "c", "thumbnails=0"))
    assert open_catalogue(s.settings.catalogue).manifest("faces", "test_vit")["thumbnails"] == []
    (tmp_path / "there" / paths[0]).write_bytes(b"something else")
    assert [paths[0] in words for words in verify(Manifests(str(tmp_path / "there")))[2]] == [True]
