"""How near two VDNAs can be at most, from a few numbers of each: what is surely far need not be read.

    sketch = emd_sketch(cdf(histogram))                 # (neurons, CELLS) uint16, once per dataset
    emd_bound(sketches, sketch, bins)                   # (datasets) float64: EMD is at least that

EMD sums |P - Q| over bins, for cumulative shares P and Q; over a cell of bins that is at least |sum P - sum Q|. Between
trained networks' histograms, two cells make nine tenths of it. A Fréchet distance is at least what it is between the
neurons' marginals, (m1 - m2)² + (s1 - s2)²; for single neurons it is that.
"""

from __future__ import annotations

import numpy as np

CELLS = 2
STEPS = 65535
ROUNDING = 2e-7
"""Of float32, relative, in means and deviations; twice over."""


def emd_sketch(shares: np.ndarray) -> np.ndarray:
    """(neurons, CELLS) uint16 from cumulative shares (neurons, bins): each cell's mean, in steps of 1 / 65535."""
    bins = shares.shape[1]
    starts = _starts(bins)
    sums = np.add.reduceat(shares, starts, axis=1) / np.diff([*starts, bins])
    return np.rint(np.clip(sums, 0, 1) * STEPS).astype(np.uint16)


def emd_bound(sketches: np.ndarray, own: np.ndarray, bins: int) -> np.ndarray:
    """(datasets) float64: the least EMD in bins, as a mean over neurons, between one sketch (neurons, CELLS) and others
    (datasets, neurons, CELLS)."""
    starts = _starts(bins)
    widths = np.diff([*starts, bins])
    steps = np.abs(sketches.astype(np.int32) - own.astype(np.int32))
    cells = (steps - 1).clip(min=0) / STEPS * widths  # each of the two was rounded by half a step at most
    bound: np.ndarray = cells.sum(axis=2).mean(axis=1)
    return bound


def frechet_bound(means: np.ndarray, deviations: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(datasets, neurons) float64: the least (m1 - m2)² + (s1 - s2)² of each neuron, from float32."""
    bound: np.ndarray = _gap(means, mean) ** 2 + _gap(deviations, deviation) ** 2
    return bound


def _gap(others: np.ndarray, own: np.ndarray) -> np.ndarray:
    a, b = others.astype(np.float64), own.astype(np.float64)
    gap: np.ndarray = (np.abs(a - b) - ROUNDING * (np.abs(a) + np.abs(b))).clip(min=0)
    return gap


def _starts(bins: int) -> list[int]:
    """First bin of each cell."""
    return [bins * cell // min(CELLS, bins) for cell in range(min(CELLS, bins))]
