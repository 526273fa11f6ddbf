"""The datasets nearest to a new VDNA, by reading few of them.

A matrix of all distances between the known datasets is there already. Where the distance is a metric, every dataset
that was compared bounds all others from below, |d(new, it) - d(it, other)| ≤ d(new, other), and what cannot be among
the nearest any more is never read (AESA: Vidal Ruiz, "An algorithm for finding nearest neighbours in (approximately)
constant average time", 1986). The answer is exact. EMD is a metric; of NFD and FD the square roots are: they are
2-Wasserstein distances, squared and averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

AT_ONCE = 4
"""Datasets that are compared side by side: a few more in all, for a fraction of the waiting."""
SLACK = 1e-9
"""Relative rounding by which a bound may be too high."""


def nearest(
    matrix: np.ndarray, distances: Callable[[Sequence[int]], Sequence[float]], k: int, squared: bool
) -> dict[int, float]:
    """The `k` members of a matrix nearest to something new, `{member: distance}`, nearest first.

    `matrix` (members, members) float64 are the distances between them; `distances` computes those of some members to
    what is new. With `squared` the square roots of all of these are the metric.
    """
    between = np.sqrt(matrix) if squared else matrix
    found: dict[int, float] = {}
    answers: dict[int, float] = {}
    lower = np.zeros(len(between))
    order = between.mean(axis=1)  # of those with equal bounds, first who is central
    while True:
        worst = sorted(found.values())[k - 1] if len(found) >= k else np.inf
        limit = worst * (1 + SLACK)
        left = [i for i in np.lexsort((order, lower)).tolist() if i not in found and lower[i] <= limit]
        if not left:
            break
        chosen = left[:AT_ONCE]
        for member, distance in zip(chosen, distances(chosen), strict=True):
            answers[member] = distance
            found[member] = float(np.sqrt(distance)) if squared else distance
            np.fmax(lower, np.abs(found[member] - between[member]) - SLACK * between[member], out=lower)
    return dict(sorted(answers.items(), key=lambda pair: (pair[1], pair[0]))[:k])
