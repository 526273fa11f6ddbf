"""Tiles: every pair once, the numbers of the distances, whatever the size of the tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distributions import VDNA, IncompatibleError, emd, fd, nfd
from distributions.comparison import metrics_of
from pipeline.catalogue.writer import Store
from pipeline.matrix import tiles as module
from pipeline.matrix.tiles import Tiler, tiles
from tests.helpers.material import ALL, LAYERS

FACTS = {"fingerprint": "f", "url": "u", "description": "", "licence": "", "extractor_licence": "", "provenance": {}}
NAMES = ("a", "b", "c", "d", "e", "same")
SIZES = pytest.mark.parametrize("memory", [1, 30_000, 1 << 30])
EXPECTED = {
    ALL: ("emd", "nfd", "fd"),
    ("histogram-20",): ("emd",),
    ("gaussian",): ("nfd",),
    ("layer-gaussian",): ("nfd", "fd"),
}
KINDS = pytest.mark.parametrize("distributions", EXPECTED)


@SIZES
@pytest.mark.parametrize("new", [[0, 1, 2, 3, 4, 5], [2], [0, 5], []])
def test_every_pair_once(
    monkeypatch: pytest.MonkeyPatch, filled: Callable[..., VDNA], memory: int, new: list[int]
) -> None:
    monkeypatch.setattr(module, "MEMORY", memory)
    members = [{"digest": name} for name in NAMES]
    seen: Counter[tuple[str, int, int]] = Counter()
    all_tiles = tiles(filled(1).spec, members, new)
    for tile in all_tiles:
        for layer in tile.layers:
            seen.update(
                (layer, *sorted((i, j))) for i in tile.rows for j in tile.columns if i <= j or not tile.diagonal
            )
    assert set(seen.values()) <= {1}
    assert set(seen) == {(k, min(i, j), max(i, j)) for k in LAYERS for i in new for j in range(len(NAMES))}
    assert len({tile.id for tile in all_tiles}) == len(all_tiles)
    assert [tile.index for tile in all_tiles] == list(range(len(all_tiles)))


def test_the_name_is_that_of_the_contents(filled: Callable[..., VDNA]) -> None:
    """Not of the places: what was computed is found again when a dataset before has been added."""
    spec = filled(1).spec
    before = tiles(spec, [{"digest": "b"}, {"digest": "c"}], [1])
    after = tiles(spec, [{"digest": "a"}, {"digest": "b"}, {"digest": "c"}], [2])
    other = tiles(spec, [{"digest": "b"}, {"digest": "d"}], [1])
    assert before[0].id == after[0].id != other[0].id
    assert before[0].id.startswith("tile-")


@SIZES
@KINDS
def test_distances_are_those_of_the_pairs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    filled: Callable[..., VDNA],
    memory: int,
    distributions: tuple[str, ...],
) -> None:
    store = Store(str(tmp_path))
    vdnas = [filled(seed, distributions=distributions) for seed in (1, 2, 3, 4, 5, 1)]
    members = [store.put_vdna(vdna, name, FACTS) for vdna, name in zip(vdnas, NAMES, strict=True)]
    spec = vdnas[0].spec
    wanted = metrics_of(spec.distributions)
    assert wanted == EXPECTED[distributions]

    def matrix(limit: int) -> dict[str, np.ndarray]:
        monkeypatch.setattr(module, "MEMORY", limit)
        distances = {metric: np.full((len(LAYERS), len(NAMES), len(NAMES)), np.nan) for metric in wanted}
        tiler = Tiler(spec, members)
        for tile in tiles(spec, members, range(len(NAMES))):
            where = [list(LAYERS).index(layer) for layer in tile.layers]
            for metric, values in tiler.distances(tile, store).items():
                distances[metric][np.ix_(where, tile.rows, tile.columns)] = values
                distances[metric][np.ix_(where, tile.columns, tile.rows)] = values.transpose(0, 2, 1)
        return distances

    tiled, whole = matrix(memory), matrix(1 << 30)
    for metric, distance in (("emd", emd), ("nfd", nfd), ("fd", fd)):
        if metric not in wanted:
            continue
        np.testing.assert_array_equal(tiled[metric], whole[metric])
        np.testing.assert_array_equal(tiled[metric], tiled[metric].transpose(0, 2, 1))
        assert not tiled[metric].diagonal(axis1=1, axis2=2).any()
        assert not tiled[metric][:, 0, 5].any()
        for i, layer in enumerate(LAYERS):
            assert tiled[metric][i, 0, 3] == pytest.approx(distance(vdnas[0], vdnas[3], layer=layer), rel=1e-12)


def test_a_dataset_without_a_count_is_named(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    store, full = Store(str(tmp_path)), filled(1)
    members = [store.put_vdna(v, name, FACTS) for name, v in (("full", full), ("empty", VDNA(full.spec)))]
    with pytest.raises(IncompatibleError, match="dataset empty: a neuron's histogram is empty"):
        Tiler(full.spec, members).distances(tiles(full.spec, members, [0, 1])[0], store)
