"""Compiled loops over activations in place, whatever their strides: token-major networks (ViT) and channel-major ones
(CNN) are both walked along their contiguous axis. The contracts are those of `distributions.kernels`."""

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
    values, channel_major = _numpy_view(activations)
    _count_bins(values, channel_major, *(t.numpy() for t in (centre, half_width, counts, below, above, nan)))


def position_means(activations: torch.Tensor) -> torch.Tensor:
    values, channel_major = _numpy_view(activations)
    loop = _means_channel_major if channel_major else _means_token_major
    means = np.zeros((activations.shape[0], activations.shape[2]))
    loop(values, means)
    return torch.from_numpy(means)


def extremes(activations: torch.Tensor, low: torch.Tensor, high: torch.Tensor, nonfinite: torch.Tensor) -> None:
    finite = activations.isfinite()
    if not bool(finite.all()):
        nonfinite += (~finite).sum((0, 1))
        high.copy_(torch.maximum(high, activations.masked_fill(~finite, -torch.inf).amax((0, 1)).float()))
        low.copy_(torch.minimum(low, activations.masked_fill(~finite, torch.inf).amin((0, 1)).float()))
        return
    high.copy_(torch.maximum(high, activations.amax((0, 1)).float()))
    low.copy_(torch.minimum(low, activations.amin((0, 1)).float()))


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
