"""Distances in pairs: ours, the vdna library, torchmetrics, pytorch-fid and SciPy in turn, on the same numbers.

    python -m bench.matrix                    # about five minutes on two cores

EMD: 64 datasets of a ViT-B (13 layers of 768 neurons, 1000 bins), from the counts to the matrix, per pair; the peers
compare two of them. SciPy's distance knows single neurons: a sample is taken, and the time is carried to all.
FD: 32 datasets of 2048 neurons. A round takes the factors of some and all pairs between them, and the time per pair is
(32 factors + 496 pairs) / 496; the peers have nothing to keep of a dataset, and compare two.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from unittest import mock

import numpy as np
import scipy.linalg
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from scipy.stats import wasserstein_distance
from torchmetrics.image.fid import _compute_fid

from bench.figures import ROUNDS, VIT_B, Figure, Figures, figure, ratios, seconds, table
from distributions.distances import Factor, cdf, frechet
from distributions.kernels import pairwise_emd
from distributions.kernels.factors import one_thread_each
from distributions.moments import LayerMoments

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vdna import EMD, FD
    from vdna.vdnas import VDNAHist, VDNALayerGauss

BINS, DATASETS = 1000, 64
NEURONS = sum(VIT_B.values())
SAMPLE = 256
"""Neurons that SciPy is given."""
WIDTH, IMAGES, GAUSSIANS, MADE = 2048, 6000, 32, 4
"""Neurons and images of FD's datasets, datasets of its matrix, and those that a round computes with."""


def measure() -> Figures:
    return emd() | fd()


def emd() -> Figures:
    """`emd_pair_ms`, `emd_vs_seed`, `emd_vs_scipy`."""
    counts = _counts()
    theirs = [_seeds_histograms(of_one) for of_one in counts[:2]]
    draw = np.random.default_rng(1)
    sample = draw.choice(VIT_B["norm"], SAMPLE, replace=False)
    places = np.arange(BINS)

    def ours() -> None:
        # One layer's counts stand for all thirteen: they are far larger than any cache. The shares of each take the
        # place of the last one's, as in a matrix's tiles.
        shares = np.empty(counts.shape)
        for neurons in VIT_B.values():
            matrix = _layer(counts, shares) / neurons
        assert matrix.shape == (DATASETS, DATASETS)

    def scipys() -> None:
        for neuron in sample:
            wasserstein_distance(places, places, counts[0, neuron], counts[1, neuron])

    expected = float(EMD(*theirs))
    assert abs(_layer(counts[:2], np.empty(counts[:2].shape))[0, 1] / VIT_B["norm"] / expected - 1) < 1e-9
    pairs = DATASETS * (DATASETS - 1) // 2
    mine, seed, scipy_ = _turns(ours, lambda: EMD(*theirs), scipys)
    mine = [time / pairs for time in mine]
    scipy_ = [time * NEURONS / SAMPLE for time in scipy_]
    return {
        "emd_pair_ms": figure([time * 1e3 for time in mine], "ms per pair"),
        "emd_vs_seed": _times(seed, mine),
        "emd_vs_scipy": _times(scipy_, mine),
    }


def fd() -> Figures:
    """`fd_pair_s`, `fd_vs_seed`, `fd_vs_torchmetrics`, `fd_vs_pytorch_fid`."""
    moments = [_moments(seed) for seed in range(MADE)]
    pairs = list(combinations(range(MADE), 2))
    factors: list[Factor] = []

    def make() -> None:
        factors[:] = one_thread_each(Factor.of, moments)

    def compare() -> list[float]:
        return one_thread_each(frechet, (factors[i] for i, _ in pairs), (factors[j] for _, j in pairs))

    arrays = [array for of_one in moments[:2] for array in of_one]
    tensors = [torch.from_numpy(array) for array in arrays]
    theirs = [_seeds_gaussian(*tensors[:2]), _seeds_gaussian(*tensors[2:])]
    # SciPy from 1.16 on returns no pair for sqrtm(disp=False), which both libraries unpack.
    patches = [mock.patch(f"{name}.sqrtm", _sqrtm) for name in ("vdna.utils.stats", "pytorch_fid.fid_score.linalg")]
    with patches[0], patches[1]:
        make()
        mine = compare()[0]
        others = (float(FD(*theirs)), float(_compute_fid(*tensors)), float(calculate_frechet_distance(*arrays)))
        assert all(abs(mine / other - 1) < 1e-6 for other in others), (mine, others)
        made, compared, seed, metrics, fid = _turns(
            make,
            compare,
            lambda: FD(*theirs),
            lambda: _compute_fid(*tensors),
            lambda: calculate_frechet_distance(*arrays),
        )
    all_pairs = GAUSSIANS * (GAUSSIANS - 1) // 2
    each = [
        (GAUSSIANS * a / MADE + all_pairs * b / len(pairs)) / all_pairs for a, b in zip(made, compared, strict=True)
    ]
    return {
        "fd_factor_s": figure([time / MADE for time in made], "s per dataset"),
        "fd_pair_s": figure(each, "s per pair, factors included"),
        "fd_vs_seed": _times(seed, each),
        "fd_vs_torchmetrics": _times(metrics, each),
        "fd_vs_pytorch_fid": _times(fid, each),
    }


_really = scipy.linalg.sqrtm


def _sqrtm(matrix: np.ndarray, disp: bool = True) -> tuple[np.ndarray, float]:
    return _really(matrix), 0.0


def _layer(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Sums of EMD of a layer, (datasets, datasets), from its counts; `shares` is what they are put into."""
    one_thread_each(cdf, counts, shares)
    return pairwise_emd(torch.from_numpy(shares))


def _turns(*actions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each action in every round, one after another, after a round that does not count."""
    rounds = [[seconds(action) for action in actions] for _ in range(ROUNDS + 1)]
    return [list(times) for times in zip(*rounds[1:], strict=True)]


def _times(theirs: Sequence[float], mine: Sequence[float]) -> Figure:
    return figure(ratios(theirs, mine), "times as fast")


def _counts() -> np.ndarray:
    """A layer of every dataset, (datasets, neurons, bins) uint64: bells of other widths and places."""
    draw = np.random.default_rng(0)
    middle = np.linspace(-1, 1, BINS)
    counts = np.empty((DATASETS, VIT_B["norm"], BINS), np.uint64)
    for of_one in counts:
        place, width = draw.normal(0, 0.1, (VIT_B["norm"], 1)), draw.uniform(0.1, 0.3, (VIT_B["norm"], 1))
        of_one[:] = draw.poisson(1000 * np.exp(-0.5 * ((middle - place) / width) ** 2))
    return counts


def _seeds_histograms(counts: np.ndarray) -> VDNAHist:
    """As the vdna library has them after reading a file: int32 by layer."""
    vdna = VDNAHist(BINS)
    vdna.neurons_list = dict(VIT_B)
    vdna.data = {layer: torch.from_numpy(counts.astype(np.int32)) for layer in VIT_B}
    return vdna


def _moments(seed: int) -> LayerMoments:
    """Mean and covariance of correlated features whose variances fall off, as a network's do."""
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
    features = draw.normal(size=(IMAGES, WIDTH)) * np.arange(1.0, WIDTH + 1) ** -0.5 @ mixed
    return LayerMoments(features.mean(axis=0), np.cov(features.T))


def _seeds_gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> VDNALayerGauss:
    vdna = VDNALayerGauss()
    vdna.neurons_list = {"layer": WIDTH}
    vdna.data = {"layer": {"mu": mean, "sigma": covariance}}
    return vdna


if __name__ == "__main__":
    print(table(measure()))
