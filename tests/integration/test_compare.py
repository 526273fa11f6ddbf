"""The compare stage: what the matrix holds, and which pairs are computed."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from distributions import emd, fd, nfd
from pipeline import make_vdna, open_catalogue
from pipeline.catalogue.writer import Store
from pipeline.errors import DamagedError
from pipeline.matrix import tiles as tiles_module
from pipeline.matrix.tiles import Tile, Tiler
from pipeline.stages import compare
from pipeline.stages.context import RunContext
from tests.helpers.in_process import in_process
from tests.helpers.runs import do, of

pytestmark = pytest.mark.usefixtures("in_process")


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
            manifest = json.loads(path.read_text())
            assert manifest.pop("objects")
            path.write_text(json.dumps(manifest))
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


@pytest.fixture(scope="module")
def halves(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Twenty-four images of each half of every demo set, the halves drawn at random."""
    folder, pairs = tmp_path_factory.mktemp("halves"), {}
    for number, source in enumerate(sorted(demo_data.iterdir())):
        images = []
        for path in sorted(source.glob("*.tar")):
            with tarfile.open(path) as tar:
                images += [(m, tar.extractfile(m).read()) for m in tar if not m.name.endswith("json")]
        order = np.random.default_rng(number).permutation(len(images))
        paths = tuple(folder / f"{source.name}-{half}.tar" for half in "ab")
        for path, part in zip(paths, (order[:24], order[len(images) // 2 :][:24]), strict=True):
            with tarfile.open(path, "w") as tar:
                for index in part:
                    tar.addfile(images[index][0], io.BytesIO(images[index][1]))
        pairs[source.name] = paths
    return pairs  # type: ignore[return-value]


def test_the_matrix_makes_sense(halves: dict[str, tuple[Path, Path]]) -> None:
    """Each set's two random halves are nearer to each other than to any half of another set."""
    ranges = make_vdna([str(a) for a, _ in halves.values()], distributions=["histogram-1000"]).spec.ranges
    names = ["histogram-1000", "layer-gaussian"]
    vdnas = {k: [make_vdna(p, distributions=names, ranges=ranges) for p in pair] for k, pair in halves.items()}
    for distance in (emd, nfd, fd):
        nearest = dict.fromkeys(vdnas, np.inf)
        for (name, pair), (other, others) in combinations(vdnas.items(), 2):
            between = min(distance(v, w) for v in pair for w in others)
            nearest |= {each: min(nearest[each], between) for each in (name, other)}
        for name, (a, b) in vdnas.items():
            assert distance(a, b) < nearest[name], (distance.__name__, name)
