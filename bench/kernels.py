"""The statistics alone, a layer of a ViT-B (32 images, 197 tokens, 768 neurons, 1000 bins), against the seed's way.

python -m bench.kernels                   # a minute
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from bench.figures import ROUNDS, Figures, figure, ratios, seconds, table
from distributions.kernels import count_bins, extremes, position_means

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vdna.utils.stats import histogram_per_channel

SAMPLES, POSITIONS, NEURONS, BINS = 32, 197, 768, 1000
CALLS = 20


def measure() -> Figures:
    values = torch.randn(SAMPLES, POSITIONS, NEURONS, generator=torch.Generator().manual_seed(0))
    theirs = values.transpose(1, 2)[..., None]  # (samples, neurons, positions, 1), as the seed's networks give it
    centre = torch.zeros(NEURONS, dtype=torch.float64)
    half_width = torch.full((NEURONS,), 4.0, dtype=torch.float64)
    axes = centre.view(1, -1, 1, 1), half_width.view(1, -1, 1, 1)
    slots = torch.zeros((NEURONS, BINS + 3), dtype=torch.int32)  # as a histogram counts them
    low, high = torch.full((NEURONS,), torch.inf), torch.full((NEURONS,), -torch.inf)
    nonfinite = torch.zeros(NEURONS, dtype=torch.int64)
    two = [slots.clone(), slots.clone()]
    lanes = ThreadPoolExecutor(2, "lane", torch.set_num_threads, (1,))  # a batch on each core, as in an extraction
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "hist_kernel_ns": (1, lambda: count_bins(values, centre, half_width, slots)),
        "hist_two": (1, lambda: list(lanes.map(lambda s: count_bins(values, centre, half_width, s), two))),
        "hist_seed_ns": (1, lambda: histogram_per_channel((theirs - axes[0]) / axes[1], BINS, [-1.0, 1.0])),
        "means_kernel_ns": (1, lambda: position_means(values)),
        "ranges_kernel_ns": (1, lambda: extremes(values, low, high, nonfinite)),
        "ranges_torch_ns": (1, lambda: (values.amin((0, 1)), values.amax((0, 1)))),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, (threads, action) in ways.items():
            torch.set_num_threads(threads)
            calls = max(CALLS // 10, 1) if "seed" in name else CALLS
            taken = sum(seconds(action) for _ in range(calls)) / calls
            if turn:  # the first compiles
                measured[name].append(taken / values.numel() * 1e9)
    both = [taken / 2 for taken in measured.pop("hist_two")]  # two batches at once
    figures = {name: figure(taken, "ns per activation, one core") for name, taken in measured.items()}
    figures["hist_kernel_2core"] = figure(ratios(measured["hist_kernel_ns"], both), "times faster on two cores")
    figures["hist_vs_seed"] = figure(ratios(measured["hist_seed_ns"], measured["hist_kernel_ns"]), "times faster")
    return figures


if __name__ == "__main__":
    print(table(measure()))
