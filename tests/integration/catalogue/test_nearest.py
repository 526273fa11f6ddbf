"""The nearest datasets are what comparing with all gives, and fewer are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributions import VDNA, IncompatibleError, emd, fd, nfd
from distributions.comparison import compare
from pipeline import open_catalogue
from pipeline.catalogue import neighbours
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from pipeline.errors import UserError
from tests.helpers import synthetic
from tests.helpers.catalogues import DATASETS, METRICS, website


class TestNearest:
    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("layers", [None, ["norm"], ["block_0", "norm"]])
    def test_is_what_comparing_with_all_gives(
        self, store: Store, stranger: VDNA, metric: str, layers: list[str] | None
    ) -> None:
        cat = open_catalogue(store.url)
        all_of_them = {
            name: compare(stranger, cat.vdna(name, "vit_small"), layers=layers).overall[metric]
            for name in cat.index()["dataset"]
        }
        expected = sorted(all_of_them, key=lambda name: (all_of_them[name], name))[:5]
        near = cat.nearest(stranger, metric=metric, k=5, layers=layers)
        assert near.index.tolist() == expected
        np.testing.assert_allclose(near.to_numpy(), [all_of_them[name] for name in expected], rtol=1e-12)

    def test_of_a_dataset_is_what_the_matrix_says(self, store: Store) -> None:
        cat = open_catalogue(store.url)
        name = cat.index()["dataset"][7]
        near, frame = cat.nearest(name, k=50), cat.matrix("vit_small").frame
        assert len(near) == DATASETS - 1
        assert near.to_dict() == frame.loc[name].drop(name).sort_values().to_dict()
        by_view = cat.nearest(cat.vdna(name), k=3)  # it is no answer to itself
        assert by_view.index.tolist() == near.index[:3].tolist()
        np.testing.assert_allclose(by_view, near.iloc[:3], rtol=1e-9)
        some = cat.nearest(name, layers=["norm"], metric="nfd")
        assert some.iloc[0] == pytest.approx(
            nfd(cat.vdna(name, "vit_small"), cat.vdna(some.index[0], "vit_small"), layer="norm"), rel=1e-9
        )

    @pytest.mark.parametrize("metric", METRICS)
    def test_reads_fewer_than_there_are(self, store: Store, stranger: VDNA, metric: str) -> None:
        with website(Path(store.root)) as (url, asked):
            open_catalogue(url).nearest(stranger, k=2, metric=metric)
            manifests = sum(1 for path in asked if "/versions/" in path)
            assert 2 <= manifests < DATASETS // 2

    def test_stops_when_the_rest_is_surely_farther(self) -> None:
        distances = np.random.default_rng(0).random(500)
        asked: list[int] = []

        def read(those: Any) -> list[float]:
            asked.extend(those)
            return distances[those].tolist()

        nearest = neighbours.nearest(0.9 * distances, read, 3)
        assert list(nearest) == np.argsort(distances)[:3].tolist()
        assert len(asked) == len(set(asked)) < 20
        assert list(neighbours.nearest(np.zeros(500), read, 3)) == list(nearest)
        assert list(neighbours.nearest(0.9 * distances, read, 900)) == np.argsort(distances).tolist()
        assert neighbours.nearest(np.empty(0), read, 3) == {}

    def test_without_a_matrix_all_are_read(self, tmp_path: Path, filled: Callable[..., VDNA], ranges: Any) -> None:
        store = Store(str(tmp_path / "c"))
        for seed in range(3):
            store.put_vdna(filled(seed), f"set{seed}", synthetic.facts_of("x", 0))
        publish(store)
        near = open_catalogue(store.url).nearest(filled(1, url="elsewhere"))
        assert near.index[0] == "set1"
        assert near.iloc[0] == 0
        assert len(near) == 3

    def test_mistakes(self, store: Store, filled: Callable[..., VDNA]) -> None:
        cat = open_catalogue(store.url)
        name = cat.index()["dataset"][0]
        with pytest.raises(UserError, match="not among"):
            cat.nearest("nothing")
        with pytest.raises(UserError, match="metric=far: allowed are emd, nfd, fd"):
            cat.nearest(name, metric="far")
        with pytest.raises(UserError, match="k=0"):
            cat.nearest(name, k=0)
        with pytest.raises(UserError, match="layers nowhere: there are block_0"):
            cat.nearest(name, layers=["nowhere"])
        with pytest.raises(ValueError, match="unknown layer 'nowhere'"):
            cat.nearest(cat.vdna(name, "vit_small"), layers=["nowhere"])
        with pytest.raises(IncompatibleError, match=r"nothing in this catalogue can be compared with it: .*extractor"):
            cat.nearest(filled(1))


def test_comparing(store: Store, stranger: VDNA) -> None:
    cat = open_catalogue(store.url)
    a, b = cat.index()["dataset"][:2]
    comparison = cat.compare(a, b)
    v, w = (cat.vdna(name, "vit_small") for name in (a, b))
    assert comparison.names == (a, b)
    for metric, distance in METRICS.items():
        assert comparison.overall[metric] == pytest.approx(distance(v, w), rel=1e-12)
        assert comparison.layers[metric]["norm"] == pytest.approx(distance(v, w, layer="norm"), rel=1e-12)
    most = comparison.most(3)
    per_neuron = emd(v, w, per_neuron=True)
    highest = max((values.max(), layer, int(values.argmax())) for layer, values in per_neuron.items())
    assert most[0] == (highest[1], highest[2], highest[0])
    assert [value for *_, value in most] == sorted((value for *_, value in most), reverse=True)
    beside = cat.compare(stranger, b, layers=["norm"])
    assert beside.names == ("yours", b)
    assert list(beside.layers["emd"]) == ["norm"]
    assert beside.overall["emd"] == pytest.approx(emd(stranger, w, layer="norm"), rel=1e-12)
    with pytest.raises(ValueError, match="unknown layer"):
        cat.compare(a, b, layers=["nowhere"])


def test_matrices(store: Store) -> None:
    cat = open_catalogue(store.url)
    names = cat.index()["dataset"].tolist()
    whole = cat.distances("vit_small", "nfd")
    assert whole.dims == ("dataset", "other", "layer")
    matrix = cat.matrix("vit_small", "nfd", layers=["block_0", "norm"], datasets=names[3:6])
    assert matrix.frame.index.tolist() == matrix.frame.columns.tolist() == names[3:6]
    weights = np.array([16, 24]) / 40
    expected = (whole.sel(layer=["block_0", "norm"]).to_numpy() * weights).sum(-1)[3:6, 3:6]
    np.testing.assert_allclose(matrix.array.to_numpy(), expected, rtol=1e-12)
    np.testing.assert_array_equal(cat.matrix("vit_small", "nfd").array.to_numpy(), whole.overall.to_numpy())
    with pytest.raises(UserError, match="datasets nobody"):
        cat.matrix("vit_small", datasets=["nobody"])
    with pytest.raises(UserError, match="no distances for extractor other"):
        cat.matrix("other")


def test_a_dataset_under_several_specs_is_one_answer(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    store, facts = Store(str(tmp_path / "c")), synthetic.facts_of("x", 0)
    store.put_vdna(filled(1), "twice", facts)
    store.put_vdna(filled(2, distributions=("histogram-20",)), "twice", facts)
    store.put_vdna(filled(3), "once", facts)
    publish(store)
    near = open_catalogue(store.url).nearest(filled(2, url="elsewhere"), k=5)
    assert sorted(near.index) == ["once", "twice"]


def test_bounds_of_fd_are_of_its_own_samples(tmp_path: Path) -> None:
    """With Gaussians over every position, their deviations are larger than those that FD is of."""
    spec = replace(synthetic.spec_of(), positions={"gaussian": "all"})
    store = Store(str(tmp_path / "c"))
    synthetic.fill(store, spec, synthetic.names(12), images=8)
    publish(store)
    cat = open_catalogue(store.url)
    for seed in range(4):
        view = synthetic.filled(spec, f"stranger-{seed}", seed, 8)
        distances = {name: fd(view, cat.vdna(name)) for name in cat.index()["dataset"]}
        assert cat.nearest(view, metric="fd", k=2).index.tolist() == sorted(distances, key=distances.__getitem__)[:2]
