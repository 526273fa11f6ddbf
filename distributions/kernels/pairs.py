"""Distances between many datasets at once, neuron by neuron.

    shares = cumulative_shares(counts)                    # (neurons, bins) uint64 to float64
    sums = pairwise_emd(stack, stack)                     # (datasets, neurons, bins) to (datasets, datasets)

On a CPU, four datasets by four share what is loaded, and sixteen sums stay in registers: without that the processor
waits for its cache. Blocks of datasets are small enough for a neuron's shares to stay in the second-level cache.
A pair's sum runs in one order whatever stands beside it, so it does not depend on the block, the threads, or which
of the two is first. A GPU's agree within float64 rounding.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from distributions.kernels.compiled import compiled

if TYPE_CHECKING:
    import torch

SIDE = 4
"""Datasets by datasets whose sums are in registers at once; the loop below is written out for four."""
BLOCK = 32
"""Datasets of each side taken through all neurons' bins together: 256 KiB of each for a thousand bins."""
RUN = 16
"""Neurons whose distances are summed in a thread; what threads found is summed in a fixed order."""
SMALL = 1 << 16
"""Shares that are not worth a second thread."""


def cumulative_shares(counts: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """Of each row of counts (neurons, bins) uint64, the share up to each bin, float64: the last is 1.

    A row of zeros gives NaN. Sums are exact, so each share is the float64 nearest to the true one. They are put into
    `shares`, contiguous, where it is given: memory that is new costs more than the sums.
    """
    cumulative = np.empty(counts.shape) if shares is None else shares
    _cumulative(np.ascontiguousarray(counts, np.uint64), cumulative)
    return cumulative


def row_emd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """EMD in bins of each row of two arrays of cumulative shares (neurons, bins), (neurons) float64."""
    if a.shape != b.shape:
        raise ValueError(f"cumulative shares of different shapes: {a.shape} and {b.shape}")
    result = np.empty((len(a), 1, 1))
    _emd(np.ascontiguousarray(a)[None], np.ascontiguousarray(b)[None], 1, False, 0, len(a), result)
    return result[:, 0, 0]


def pairwise_emd(a: torch.Tensor, b: torch.Tensor | None = None) -> np.ndarray:
    """Sum over neurons of the EMD in bins between every dataset of `a` and every one of `b`, (of a, of b) float64.

    `a` and `b` are cumulative shares (datasets, neurons, bins) float64 on one device, contiguous along the bins.
    Without `b` it is the matrix of `a` with itself, symmetric to the bit, zeros on the diagonal, at half the cost.
    """
    other = a if b is None else b
    if a.shape[1:] != other.shape[1:]:
        raise ValueError(f"cumulative shares of different shapes: {tuple(a.shape)} and {tuple(other.shape)}")
    total = _on_cores(a.numpy(), other.numpy(), b is None) if a.device.type == "cpu" else on_device(a, other)
    return total if b is not None else np.triu(total) + np.triu(total, 1).T


def _on_cores(a: np.ndarray, b: np.ndarray, same: bool) -> np.ndarray:
    import torch

    runs = -(-a.shape[1] // RUN)
    partial = np.zeros((runs, len(a), len(b)))
    threads = torch.get_num_threads() if a.size + b.size > SMALL else 1
    if threads == 1:
        _emd(a, b, RUN, same, 0, runs, partial)
    else:
        # More parts than threads: one of these may have to share its core.
        cuts = sorted({runs * i // (4 * threads) for i in range(4 * threads + 1)})
        with ThreadPoolExecutor(threads) as team:
            list(team.map(lambda first, last: _emd(a, b, RUN, same, first, last, partial), cuts, cuts[1:]))
    return reduce(np.add, partial)  # NumPy's own sum has another order for one pair than for many


def on_device(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """`pairwise_emd` by torch's own kernels, within float64 rounding: their sums have no order of their own."""
    import torch

    step = max(BLOCK * SMALL // max(a.shape[0] * b.shape[0], 1), 1)  # of neurons, whose distances are held at once
    total = torch.zeros((a.shape[0], b.shape[0]), dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[1], step):
        mine, theirs = (side[:, start : start + step].transpose(0, 1).contiguous() for side in (a, b))
        total += torch.cdist(mine, theirs, p=1.0).sum(dim=0)
    return total.cpu().numpy()


@compiled(error_model="numpy")
def _cumulative(counts, shares):  # type: ignore[no-untyped-def]
    rows, bins = counts.shape
    sums = np.empty(bins, np.uint64)
    for row in range(rows):
        total = np.uint64(0)
        for column in range(bins):
            total += counts[row, column]
            sums[column] = total
        whole = np.float64(total)
        for column in range(bins):  # apart from the sums, so that it becomes vector instructions
            shares[row, column] = np.float64(sums[column]) / whole


@compiled()
def _emd(a, b, run, same, first, last, sums):  # type: ignore[no-untyped-def]
    """Fill `sums[first:last]`, each over `run` neurons; with `same`, only pairs of which the first is not after."""
    width, height, neurons = a.shape[0], b.shape[0], a.shape[1]
    square = np.empty((SIDE, SIDE))
    for part in range(first, last):
        sums[part] = 0.0
        for neuron in range(part * run, min((part + 1) * run, neurons)):
            for upper in range(0, width, BLOCK):
                for left in range(upper if same else 0, height, BLOCK):
                    for i in range(upper, min(upper + BLOCK, width), SIDE):
                        for j in range(max(left, i) if same else left, min(left + BLOCK, height), SIDE):
                            _square(a, b, neuron, i, j, square)
                            for row in range(min(SIDE, width - i)):
                                for column in range(min(SIDE, height - j)):
                                    sums[part, i + row, j + column] += square[row, column]


# Sums may be taken apart into vector lanes, always in the same way; nothing else is relaxed.
@compiled(fastmath={"reassoc", "nsz"})
def _square(a, b, neuron, i, j, square):  # type: ignore[no-untyped-def]
    # Beyond the last dataset the last is taken again: one loop, and so one order of the sums, for all.
    end, other = a.shape[0] - 1, b.shape[0] - 1
    a0, a1, a2, a3 = a[i, neuron], a[min(i + 1, end), neuron], a[min(i + 2, end), neuron], a[min(i + 3, end), neuron]
    b0, b1 = b[j, neuron], b[min(j + 1, other), neuron]
    b2, b3 = b[min(j + 2, other), neuron], b[min(j + 3, other), neuron]
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = 0.0
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = 0.0
    for k in range(a.shape[2]):
        x0, x1, x2, x3 = a0[k], a1[k], a2[k], a3[k]
        y0, y1, y2, y3 = b0[k], b1[k], b2[k], b3[k]
        s00 += abs(x0 - y0)
        s01 += abs(x0 - y1)
        s02 += abs(x0 - y2)
        s03 += abs(x0 - y3)
        s10 += abs(x1 - y0)
        s11 += abs(x1 - y1)
        s12 += abs(x1 - y2)
        s13 += abs(x1 - y3)
        s20 += abs(x2 - y0)
        s21 += abs(x2 - y1)
        s22 += abs(x2 - y2)
        s23 += abs(x2 - y3)
        s30 += abs(x3 - y0)
        s31 += abs(x3 - y1)
        s32 += abs(x3 - y2)
        s33 += abs(x3 - y3)
    square[0, 0], square[0, 1], square[0, 2], square[0, 3] = s00, s01, s02, s03
    square[1, 0], square[1, 1], square[1, 2], square[1, 3] = s10, s11, s12, s13
    square[2, 0], square[2, 1], square[2, 2], square[2, 3] = s20, s21, s22, s23
    square[3, 0], square[3, 1], square[3, 2], square[3, 3] = s30, s31, s32, s33
