"""Loops over pairs of datasets."""

from __future__ import annotations

import numba
import numpy as np


def absolute_row_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`sum(|a - b|, axis=1)` of two float64 arrays of shape (rows, columns), without a temporary."""
    return _row_differences(np.ascontiguousarray(a), np.ascontiguousarray(b))  # type: ignore[no-any-return]


@numba.njit(nogil=True, cache=True, fastmath=True)
def _row_differences(a, b):  # type: ignore[no-untyped-def]
    rows, columns = a.shape
    result = np.empty(rows)
    for row in range(rows):
        total = 0.0
        for column in range(columns):
            total += abs(a[row, column] - b[row, column])
        result[row] = total
    return result
