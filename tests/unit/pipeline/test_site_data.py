"""The files that the site draws from."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial.distance
import xarray as xr

from pipeline.catalogue import site_data
from pipeline.catalogue.site_data import files


def matrices(points: np.ndarray, layers: int = 2) -> xr.Dataset:
    """EMD and FD between points, the same in every layer; FD is squared."""
    table = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(points))
    dims = ("dataset", "other", "layer")
    variables = {"emd": table, "fd": table**2}
    return xr.Dataset(
        {name: (dims, np.repeat(values[..., None], layers, axis=2)) for name, values in variables.items()}
        | {f"{name}_overall": (dims[:2], values) for name, values in variables.items()},
        {"layer": [f"layer_{i}" for i in range(layers)]},
    )


def layout(data: bytes, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    k = min(10, n - 1)
    assert len(data) == n * (4 + 8 + 4 * k + 4 * k)
    whole, real = np.frombuffer(data, "<u4"), np.frombuffer(data, "<f4")
    near = whole[3 * n : 3 * n + n * k].reshape(n, k)
    return whole[:n], real[n : 3 * n].reshape(n, 2), near, real[3 * n + n * k :].reshape(n, k)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 40])
def test_a_layout_has_an_order_a_map_and_the_nearest(n: int) -> None:
    points = np.random.default_rng(n).standard_normal((n, 3))
    distances = matrices(points)
    index, objects = files(distances, ("emd", "fd"))
    assert {path for path in objects if not path.startswith("site/data/")} == set()
    entry = index["metrics"]["emd"]["layers"]["layer_1"]
    order, xy, near, far = layout(objects[entry["layout"]], n)
    assert sorted(order) == list(range(n))
    assert np.abs(xy).max(initial=0) <= 1 + 1e-6
    for i in range(n):
        row = distances["emd_overall"].to_numpy()[i]
        expected = sorted((distance, j) for j, distance in enumerate(row) if j != i)[:10]
        assert near[i].tolist() == [j for _, j in expected]
        np.testing.assert_allclose(far[i], [distance for distance, _ in expected], rtol=1e-6)


def test_like_datasets_stand_together() -> None:
    kinds = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 8))
    points = 10.0 * np.eye(5)[kinds] + np.random.default_rng(1).standard_normal((40, 5))
    index, objects = files(matrices(points), ("emd",))
    order, _, _, _ = layout(objects[index["metrics"]["emd"]["overall"]["layout"]], 40)
    assert (np.diff(kinds[order]) != 0).sum() == 4


@pytest.mark.parametrize("metric", ["emd", "fd"])
@pytest.mark.parametrize("n", [2, 3, 30])
def test_points_on_a_line_lie_on_a_line(metric: str, n: int) -> None:
    line = np.random.default_rng(2).uniform(-3, 7, n)
    index, objects = files(matrices(line[:, None]), (metric,))
    _, xy, _, _ = layout(objects[index["metrics"][metric]["overall"]["layout"]], n)
    expected = (line - line.mean()) / np.abs(line - line.mean()).max()
    np.testing.assert_allclose(np.abs(xy[:, 1]), 0, atol=1e-3)
    np.testing.assert_allclose(xy[:, 0] * np.sign(xy[0, 0]), expected * np.sign(expected[0]), atol=1e-4)


def test_pairs_are_decoded_within_a_thousandth() -> None:
    generator = np.random.default_rng(4)
    points = 10.0 ** generator.uniform(-5, 5, (60, 1))
    points[7] = points[3]
    distances = matrices(points)
    index, objects = files(distances, ("fd",))
    entry = index["metrics"]["fd"]["overall"]
    codes = np.frombuffer(objects[entry["values"]], "<u2").astype(float)
    ratio = entry["high"] / entry["low"]
    decoded = np.where(codes > 0, entry["low"] * ratio ** ((codes - 1) / 65534), 0.0)
    expected = distances["fd_overall"].to_numpy()[np.triu_indices(60, 1)]
    assert ratio > 1e12
    np.testing.assert_allclose(decoded, expected, rtol=1e-3)
    assert (decoded == 0).sum() == 1


def test_equal_datasets_and_equal_distances_have_files_too() -> None:
    for points, low in ((np.zeros((4, 2)), 0.0), (np.eye(4), 2**0.5)):
        index, objects = files(matrices(points), ("emd",))
        entry = index["metrics"]["emd"]["overall"]
        assert entry["low"] == entry["high"] == pytest.approx(low)
        assert np.frombuffer(objects[entry["values"]], "<u2").tolist() == [int(low > 0)] * 6


def test_large_catalogues_have_fewer_files(monkeypatch: pytest.MonkeyPatch) -> None:
    distances = matrices(np.random.default_rng(5).standard_normal((20, 2)), layers=3)
    monkeypatch.setattr(site_data, "MAX_LAYER_ROWS", 59)
    index, objects = files(distances, ("emd",))
    assert index["metrics"]["emd"]["layers"] == {}
    assert len(objects) == 2
    monkeypatch.setattr(site_data, "MAX_DATASETS", 19)
    index, objects = files(distances, ("emd",))
    assert index["metrics"]["emd"]["overall"]["values"] is None
    assert len(objects) == 1


def test_the_same_distances_make_the_same_files() -> None:
    distances = matrices(np.random.default_rng(6).standard_normal((30, 4)))
    assert files(distances, ("emd",)) == files(distances.copy(deep=True), ("emd",))
