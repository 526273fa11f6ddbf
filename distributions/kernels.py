"""The inner loops: one function per statistic, the CPU and CUDA versions behind one name.

On a CPU the loops are compiled (Numba) and read the activations in place, whatever their strides:
token-major networks (ViT) and channel-major ones (CNN) are both walked along their contiguous axis.
Elsewhere they are torch expressions on the device. Both give the same counts, bit for bit.
"""

from __future__ import annotations

import numba
import numpy as np
import torch


def count_bins(
    activations: torch.Tensor,
    centre: torch.Tensor,
    half_width: torch.Tensor,
    counts: torch.Tensor,
    below: torch.Tensor,
    above: torch.Tensor,
    nan: torch.Tensor,
) -> None:
    """Add a batch to per-neuron histograms over `centre ± half_width`.

    In float64, `z = (a - centre) / half_width` is clamped to [-1, 1] and falls in bin
    `trunc((z + 1) * bins / 2)`, the value 1 in the last bin: what `torch.histc` does to the clamped
    values. Values that had to be clamped are counted in `below` and `above` as well; NaN is counted
    in `nan` alone.

    `activations` (samples, positions, neurons) floating; `centre`, `half_width` (neurons) float64;
    `counts` (neurons, bins), `below`, `above`, `nan` (neurons) int64, updated in place.
    """
    if activations.device.type == "cpu":
        values, channel_major = _numpy_view(activations)
        _count_bins(values, channel_major, *(t.numpy() for t in (centre, half_width, counts, below, above, nan)))
        return
    neurons, bins = counts.shape
    z = (activations.double() - centre) / half_width
    missing = z.isnan()
    nan += missing.sum((0, 1))
    below += (z < -1).sum((0, 1))
    above += (z > 1).sum((0, 1))
    position = ((z.nan_to_num(0.0).clamp(-1, 1) + 1) * (bins * 0.5)).long().clamp_(max=bins - 1)
    position += torch.arange(neurons, device=z.device) * bins
    # NaN goes to one bin past the end, cut off again, so that no data-dependent shape forces a device sync.
    position = torch.where(missing, neurons * bins, position)
    flat = torch.zeros(neurons * bins + 1, dtype=torch.int64, device=z.device)
    flat.scatter_add_(0, position.flatten(), torch.ones_like(position).flatten())
    counts += flat[:-1].view(neurons, bins)


def position_means(activations: torch.Tensor) -> torch.Tensor:
    """Mean over positions of each image, summed in float64: `(samples, positions, neurons)` to `(samples, neurons)`.

    Summation runs in one fixed order per image and neuron, so the value does not depend on the batch.
    """
    if activations.device.type != "cpu":
        return activations.mean(dim=1, dtype=torch.float64)
    values, channel_major = _numpy_view(activations)
    loop = _means_channel_major if channel_major else _means_token_major
    means = np.zeros((activations.shape[0], activations.shape[2]))
    loop(values, means)
    return torch.from_numpy(means)


def extremes(activations: torch.Tensor, low: torch.Tensor, high: torch.Tensor, nonfinite: torch.Tensor) -> None:
    """Lower `low` and raise `high` (float32, per neuron, in place) to cover the finite values of a batch.

    Values that are NaN or infinite are counted per neuron in `nonfinite` (int64) and otherwise left out.
    """
    finite = activations.isfinite()
    if not bool(finite.all()):
        nonfinite += (~finite).sum((0, 1))
        high.copy_(torch.maximum(high, activations.masked_fill(~finite, -torch.inf).amax((0, 1)).float()))
        low.copy_(torch.minimum(low, activations.masked_fill(~finite, torch.inf).amin((0, 1)).float()))
        return
    high.copy_(torch.maximum(high, activations.amax((0, 1)).float()))
    low.copy_(torch.minimum(low, activations.amin((0, 1)).float()))


def absolute_row_differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`sum(|a - b|, axis=1)` of two float64 arrays of shape (rows, columns), without a temporary."""
    return _row_differences(np.ascontiguousarray(a), np.ascontiguousarray(b))  # type: ignore[no-any-return]


def _numpy_view(activations: torch.Tensor) -> tuple[np.ndarray, bool]:
    """The activations as NumPy, and whether positions (not neurons) lie contiguous in memory."""
    if activations.dtype not in (torch.float32, torch.float64):
        activations = activations.float()  # NumPy has no bfloat16
    channel_major = activations.stride(2) != 1 and activations.shape[2] > 1
    return (activations.transpose(1, 2) if channel_major else activations).numpy(), channel_major


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _count_bins(values, channel_major, centre, half_width, counts, below, above, nan):  # type: ignore[no-untyped-def]
    # One body for both layouts: the compiler lifts the test of `channel_major` out of the loops. A helper
    # function that took the arrays would cost ten times the loop itself in argument passing.
    samples, outer, inner = values.shape
    bins = counts.shape[1]
    for sample in range(samples):
        for i in range(outer):
            for j in range(inner):
                neuron = i if channel_major else j
                z = (np.float64(values[sample, i, j]) - centre[neuron]) / half_width[neuron]
                if z != z:
                    nan[neuron] += 1
                    continue
                if z < -1.0:
                    below[neuron] += 1
                    z = -1.0
                elif z > 1.0:
                    above[neuron] += 1
                    z = 1.0
                position = np.int64((z + 1.0) * (bins * 0.5))
                if position == bins:
                    position = bins - 1
                counts[neuron, position] += 1


@numba.njit(nogil=True, cache=True)
def _means_token_major(values, means):  # type: ignore[no-untyped-def]
    samples, positions, neurons = values.shape
    for sample in range(samples):
        for position in range(positions):
            for neuron in range(neurons):
                means[sample, neuron] += values[sample, position, neuron]
        for neuron in range(neurons):
            means[sample, neuron] /= positions


@numba.njit(nogil=True, cache=True)
def _means_channel_major(values, means):  # type: ignore[no-untyped-def]
    samples, neurons, positions = values.shape
    for sample in range(samples):
        for neuron in range(neurons):
            total = 0.0
            for position in range(positions):
                total += values[sample, neuron, position]
            means[sample, neuron] = total / positions


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
