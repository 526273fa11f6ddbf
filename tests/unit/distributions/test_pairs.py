"""Kernels of pairs against slow NumPy twins: EMD of many datasets at once, and the factors of FD."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from distributions.kernels import cumulative_shares, pairs, pairwise_emd, plain, row_emd
from distributions.kernels.factors import covariance_factor, one_thread_each, root_trace

SHAPES = pytest.mark.parametrize("shape", [(1, 1, 1), (2, 300, 1000), (5, 17, 100), (33, 2, 7), (70, 40, 10)])


def shares(datasets: int, neurons: int, bins: int) -> np.ndarray:
    counts = np.random.default_rng(neurons).poisson(3, (datasets, neurons, bins)).astype(np.uint64)
    counts[..., 0] += 1
    return np.stack([cumulative_shares(of_one) for of_one in counts])


def kahan(neurons: int) -> np.ndarray:
    """A covariance of full rank whose Cholesky factor is judged not to be."""
    sine, places = 0.95, np.arange(neurons)
    cosine = np.sqrt(1 - sine**2)
    apart = 1 + 1e-5 * np.maximum(places[None] - places[:, None], 0)
    upper = np.diag(sine**places) @ (np.eye(neurons) - cosine * np.triu(np.ones((neurons, neurons)), 1) * apart)
    upper /= np.linalg.norm(upper, axis=0)
    order = np.r_[0, np.arange(neurons - 1, 0, -1)]
    covariance = (upper.T @ upper)[np.ix_(order, order)]
    covariance = (covariance + covariance.T) / 2
    np.fill_diagonal(covariance, 1.0)
    return covariance


@pytest.mark.parametrize("neurons", [100, 140, 200])
def test_a_pivoted_factor_with_all_columns(neurons: int) -> None:
    other = np.cov(np.random.default_rng(0).normal(size=(3 * neurons, neurons)).T)
    first, second = (covariance_factor(matrix) for matrix in (kahan(neurons), other))
    assert first.shape[1] == neurons
    assert not torch.equal(first, first.tril())
    np.testing.assert_allclose(root_trace(first, second), torch.linalg.svdvals(first.T @ second).sum(), rtol=1e-9)


def test_cumulative_shares() -> None:
    """Exact where float64 sums of counts would not be: counts go up to 64 bits."""
    counts = np.random.default_rng(0).integers(0, 1 << 54, (7, 100), dtype=np.uint64)
    counts[3] = 0
    with np.errstate(invalid="ignore"):
        expected = np.cumsum(counts, axis=1, dtype=np.uint64) / counts.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(cumulative_shares(counts), expected)
    np.testing.assert_array_equal(cumulative_shares(counts[:, ::2])[0, -1], 1.0)
    assert np.isnan(cumulative_shares(counts)[3]).all()


@SHAPES
def test_pairwise_emd(shape: tuple[int, int, int]) -> None:
    stack = shares(*shape)
    distances = pairwise_emd(torch.from_numpy(stack))
    expected = np.abs(stack[:, None] - stack[None]).sum((2, 3))
    np.testing.assert_allclose(distances, expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(distances, distances.T)
    assert not distances.diagonal().any()
    # The same bits in any block, either way round, neuron by neuron, and on any number of threads.
    first, others = torch.from_numpy(stack[:1]), torch.from_numpy(stack[1:])
    if len(others):
        np.testing.assert_array_equal(pairwise_emd(first, others), distances[:1, 1:])
        np.testing.assert_array_equal(pairwise_emd(others, first), distances[1:, :1])
        rows = row_emd(stack[0], stack[-1])
        np.testing.assert_allclose(rows, np.abs(stack[0] - stack[-1]).sum(1), rtol=1e-13)
        assert rows.sum() == pytest.approx(distances[0, -1], rel=1e-13)
    threads = torch.get_num_threads()
    try:
        for other in (1, 3):
            torch.set_num_threads(other)
            np.testing.assert_array_equal(pairwise_emd(torch.from_numpy(stack)), distances)
    finally:
        torch.set_num_threads(threads)


@SHAPES
def test_emd_by_torch_alone(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a GPU."""
    stack = torch.from_numpy(shares(*shape))
    for small in (1, pairs.SMALL):
        monkeypatch.setattr(pairs, "SMALL", small)
        distances = pairs.on_device(stack, stack)
        np.testing.assert_allclose(distances, pairwise_emd(stack), rtol=1e-12, atol=1e-12)
        assert not distances.diagonal().any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    stack = torch.from_numpy(shares(70, 40, 10))
    np.testing.assert_allclose(pairwise_emd(stack.cuda()), pairwise_emd(stack), rtol=1e-12, atol=1e-12)
    a, b = (covariance_factor(covariance(96, 200, seed)) for seed in (1, 2))
    assert root_trace(a.cuda(), b.cuda()) == pytest.approx(root_trace(a, b), rel=1e-10)


def test_shapes_must_agree() -> None:
    a = torch.zeros((2, 3, 4), dtype=torch.float64)
    with pytest.raises(ValueError, match="different shapes"):
        pairwise_emd(a, a[:, :2])
    with pytest.raises(ValueError, match="different shapes"):
        row_emd(np.zeros((2, 3)), np.zeros((2, 4)))


def covariance(neurons: int, images: int, seed: int, decay: float = 0.5) -> np.ndarray:
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(neurons, neurons)) / np.sqrt(neurons)
    features = draw.normal(size=(images, neurons)) * np.arange(1.0, neurons + 1) ** -decay @ mixed
    features[:, 5] = 0  # a neuron that never fires
    return np.cov(features.T)


def slow_root_trace(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of the singular values of S1^½ S2^½."""
    roots = []
    for covariance in (a, b):
        values, vectors = scipy.linalg.eigh(covariance)
        # What is left of rounding is not small any more once its root is taken.
        values[values < len(values) * np.finfo(np.float64).eps * values.max()] = 0
        roots.append(vectors * np.sqrt(values))
    return float(scipy.linalg.svdvals(roots[0].T @ roots[1]).sum())


@pytest.mark.parametrize("decay", [0.5, 4.0])
@pytest.mark.parametrize("images", [(2, 400), (3, 3), (40, 100), (200, 201), (200, 5000), (5000, 5000)])
def test_factors(images: tuple[int, int], decay: float) -> None:
    """Above and below full rank, also where the eigenvalues fall below rounding."""
    stored = [covariance(200, n, seed, decay) for seed, n in enumerate(images)]
    factors = [covariance_factor(s) for s in stored]
    for covariance_, factor, n in zip(stored, factors, images, strict=True):
        assert factor.shape[1] <= min(n - 1, 199)
        np.testing.assert_allclose(factor @ factor.T, covariance_, atol=1e-13 * np.abs(covariance_).max())
    assert root_trace(*factors) == pytest.approx(slow_root_trace(*stored), rel=1e-9)


def test_factors_of_full_rank_are_triangular() -> None:
    """And their product, which leaves the zeros out, is the product."""
    stored = []
    for seed in (1, 2):
        whole = covariance(301, 1000, seed)
        whole[5, 5] = 1.0
        stored.append(whole)
    factors = [covariance_factor(s) for s in stored]
    assert all(torch.equal(factor, factor.tril()) and factor.shape == (301, 301) for factor in factors)
    assert root_trace(*factors) == pytest.approx(slow_root_trace(*stored), rel=1e-12)


def test_factors_of_nothing() -> None:
    """One image has no covariance; what is not finite is none."""
    nothing, something = covariance_factor(np.zeros((4, 4))), torch.eye(4, dtype=torch.float64)
    assert nothing.shape == (4, 0)
    assert root_trace(nothing, something) == root_trace(something, nothing) == root_trace(nothing, nothing) == 0
    with pytest.raises(ValueError, match="not finite"):
        covariance_factor(np.full((2, 2), np.nan))


def test_scales_of_neurons_do_not_matter() -> None:
    """A neuron a million times smaller than the others is not taken for rounding."""
    small = covariance(20, 100, 1)
    scale = np.ones(20)
    scale[7] = 1e-9
    assert covariance_factor(small * scale * scale[:, None]).shape[1] == 19


@pytest.mark.parametrize(("images", "other"), [(200, 300), (20, 300), (20, 30)])
def test_without_torch(images: int, other: int) -> None:
    """NumPy alone gives the same, of full rank and below it, with a neuron that never fires."""
    stored = [covariance(40, n, seed) for seed, n in enumerate((images, other))]
    for matrix in stored:
        matrix[3] = matrix[:, 3] = 0
    ours = [plain.covariance_factor(matrix) for matrix in stored]
    for factor, matrix in zip(ours, stored, strict=True):
        np.testing.assert_allclose(factor @ factor.T, matrix, atol=1e-12 * matrix.max())
    expected = root_trace(*(covariance_factor(matrix) for matrix in stored))
    assert plain.root_trace(*ours) == pytest.approx(expected, rel=1e-9)
    nothing = plain.covariance_factor(np.zeros((40, 40)))
    assert nothing.shape == (40, 0)
    assert plain.root_trace(nothing, ours[0]) == 0
    with pytest.raises(ValueError, match="not finite"):
        plain.covariance_factor(np.full((2, 2), np.nan))


def test_one_thread_each() -> None:
    threads = torch.get_num_threads()
    assert set(one_thread_each(lambda _: torch.get_num_threads(), range(5))) == {1}
    assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        one_thread_each(lambda n: 1 // n, range(2))
    assert torch.get_num_threads() == threads
