"""The statistics of a ViT-B layer (32 images, 197 tokens, 768 neurons, 1000 bins), beside the vdna library's way.

python -m bench.kernels                   # a minute
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np
import torch

from bench.figures import ROUNDS, Figures, figure, ratios, seconds, table
from distributions.kernels import count_bins, extremes, position_means

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vdna.utils.stats import histogram_per_channel

T = TypeVar("T")

SAMPLES, POSITIONS, NEURONS, BINS = 32, 197, 768, 1000
CALLS = 20
SPINS = 30_000_000
TURNS = 3 * ROUNDS
"""Turns of `two_cores`: short and many, because the second core of the machine is not always available."""


def measure() -> Figures:
    values = torch.randn(SAMPLES, POSITIONS, NEURONS, generator=torch.Generator().manual_seed(0))
    theirs = values.transpose(1, 2)[..., None]  # (samples, neurons, positions, 1), as in the vdna library
    centre = torch.zeros(NEURONS, dtype=torch.float64)
    half_width = torch.full((NEURONS,), 4.0, dtype=torch.float64)
    axes = centre.view(1, -1, 1, 1), half_width.view(1, -1, 1, 1)
    slots = torch.zeros((NEURONS, BINS + 3), dtype=torch.int32)  # as a histogram counts them
    low, high = torch.full((NEURONS,), torch.inf), torch.full((NEURONS,), -torch.inf)
    nonfinite = torch.zeros(NEURONS, dtype=torch.int64)
    ways: dict[str, Callable[[], object]] = {
        "hist_kernel_ns": lambda: count_bins(values, centre, half_width, slots),
        "hist_seed_ns": lambda: histogram_per_channel((theirs - axes[0]) / axes[1], BINS, [-1.0, 1.0]),
        "means_kernel_ns": lambda: position_means(values),
        "ranges_kernel_ns": lambda: extremes(values, low, high, nonfinite),
        "ranges_torch_ns": lambda: (values.amin((0, 1)), values.amax((0, 1))),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    torch.set_num_threads(1)
    for turn in range(ROUNDS + 1):
        for name, action in ways.items():
            calls = max(CALLS // 10, 1) if "seed" in name else CALLS
            taken = sum(seconds(action) for _ in range(calls)) / calls
            if turn:  # the first turn compiles
                measured[name].append(taken / values.numel() * 1e9)
    figures = {name: figure(taken, "ns per activation, one core") for name, taken in measured.items()}
    figures["hist_vs_seed"] = figure(ratios(measured["hist_seed_ns"], measured["hist_kernel_ns"]), "times faster")

    own = [slots.clone(), slots.clone()]
    return figures | {
        "hist_kernel_2core": figure(
            two_cores(lambda s: count_bins(values, centre, half_width, s), own), "times faster"
        ),
        "machine_2core": figure(two_cores(spin, [SPINS, SPINS]), "times faster, of work that touches no memory"),
    }


def two_cores(work: Callable[[T], object], of_each: list[T]) -> list[float]:
    """How many times faster two cores do a piece of work each, as in an extraction's lanes, than one core does both."""
    lanes = ThreadPoolExecutor(2, "lane", torch.set_num_threads, (1,))

    def many(own: T) -> None:
        for _ in range(CALLS):
            work(own)

    def one_by_one() -> None:
        for own in of_each:
            lanes.submit(many, own).result()

    def together() -> None:
        list(lanes.map(many, of_each))

    work(of_each[0])  # the first call compiles
    return [seconds(one_by_one) / seconds(together) for _ in range(TURNS)]


@numba.njit(nogil=True)
def spin(times: int) -> np.uint64:
    state = np.uint64(1)
    for i in range(times):
        state = state * np.uint64(6364136223846793005) + np.uint64(i)
    return state


if __name__ == "__main__":
    print(table(measure()))
