"""Bounds are below what they bound, whatever the data; and near it where the data are alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distributions import VDNA, HistogramAxes, Spec, fd, nfd
from distributions.bounds import CELLS, emd_bound, emd_sketch, frechet_bound
from distributions.distances import cdf
from distributions.kernels import row_emd


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 7, 20, 1000]), st.integers(1, 9))
def test_emd(seed: int, bins: int, neurons: int) -> None:
    draw = np.random.default_rng(seed)
    counts = draw.poisson(draw.gamma(0.3, 20, (6, neurons, bins))).astype(np.uint64)
    counts[..., draw.integers(bins)] += 1
    shares = [cdf(of_one) for of_one in counts]
    sketches = np.stack([emd_sketch(of_one) for of_one in shares])
    assert sketches.shape == (6, neurons, min(CELLS, bins))
    bound = emd_bound(sketches, sketches[0], bins)
    exact = np.array([row_emd(shares[0], of_one).mean() for of_one in shares])
    assert (bound <= exact + 1e-12).all()
    assert bound[0] == 0


def test_emd_of_what_is_merely_shifted_is_bounded_by_all_of_it() -> None:
    counts = np.zeros((2, 1, 100), np.uint64)
    counts[0, 0, 20:30] = counts[1, 0, 25:35] = 7
    sketches = np.stack([emd_sketch(cdf(of_one)) for of_one in counts])
    assert emd_bound(sketches, sketches[0], 100)[1] == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_frechet(offset: float) -> None:
    """Of single neurons the bound is the distance, but for rounding; of layers it is below it."""
    layers = {"a": 6, "b": 3}
    axes = HistogramAxes(layers, np.zeros(9), np.ones(9))
    views = []
    for seed in range(4):
        view = VDNA(Spec("n", "a", "w", "p", "fp32", layers, ("gaussian", "layer-gaussian"), axes))
        generator = torch.Generator().manual_seed(seed)
        for layer, neurons in layers.items():
            mixed = torch.randn((20, 1, neurons), generator=generator) @ torch.randn(
                (neurons, neurons), generator=generator
            )
            view.update(layer, mixed + offset)
        views.append(view)
    means = np.stack([view.gaussian().mean for view in views]).astype(np.float32)
    deviations = np.sqrt(np.stack([view.gaussian().variance for view in views])).astype(np.float32)
    bound = frechet_bound(means, deviations, means[0], deviations[0])
    for i, view in enumerate(views):
        assert bound[i].mean() <= nfd(views[0], view) + 1e-15
        assert bound[i].sum() / 2 <= fd(views[0], view) + 1e-9
    if not offset:
        assert bound[1].mean() == pytest.approx(nfd(views[0], views[1]), rel=1e-4)
