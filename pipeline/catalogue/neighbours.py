"""The datasets nearest to a new VDNA, by reading few of them.

Each dataset's distance has a bound below it, from a sketch (`distributions.bounds`). Datasets are compared in order of
their bounds, until the next bound is above the distance of the k-th found: the answer is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

AT_ONCE = 4
"""Datasets that are compared side by side: a few more in all, for a fraction of the waiting."""


def nearest(lower: np.ndarray, distances: Callable[[Sequence[int]], Sequence[float]], k: int) -> dict[int, float]:
    """The `k` members with the smallest distances, `{member: distance}`, nearest first. `lower` (members) float64 is
    nowhere above them; `distances` computes those of some members."""
    found: dict[int, float] = {}
    order = np.argsort(lower, kind="stable").tolist()
    for start in range(0, len(order), AT_ONCE):
        chosen = order[start : start + AT_ONCE]
        if len(found) >= k and lower[chosen[0]] > sorted(found.values())[k - 1]:
            break
        found |= zip(chosen, distances(chosen), strict=True)
    return dict(sorted(found.items(), key=lambda pair: (pair[1], pair[0]))[:k])
