"""Compiled loops over activations in place: token-major networks (ViT, channels-last) and channel-major ones are both
walked along their contiguous axis, on as many threads as torch has. The contracts are those of `distributions.kernels`.

The histogram's loop is two: one finds the slots of a block of values with vector instructions, the other counts them
up. Together in one loop the compiler would do neither well. Neighbours in memory belong to different neurons wherever
possible: a processor that adds to one address again and again waits for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from distributions.kernels.compiled import compiled

T = TypeVar("T")

ROWS = 64
"""Positions whose slots are found before they are counted: the block stays in the cache."""
LANES, RUN = 8, 256
"""The same of channel-major activations: neurons side by side, and positions of each."""
LINE = 16
"""Neurons in a cache line; fewer are not given to a thread of their own."""
SMALL = 1 << 16
"""Activations that are not worth a second thread."""
MAX_SLOTS = 1 << 32


def count_bins(activations: torch.Tensor, centre: torch.Tensor, half_width: torch.Tensor, slots: torch.Tensor) -> None:
    flat, channel_major, strides = _in_memory(activations)
    samples, positions, neurons = activations.shape
    loop = _count_channel_major if channel_major else _count_token_major
    axes, counts = (centre.numpy(), half_width.numpy()), slots.numpy()

    def of_neurons(first: int, last: int) -> None:
        loop(flat, strides, (0, samples), positions, (first, last), *axes, counts)

    def of_samples(first: int, last: int) -> np.ndarray:
        own = np.zeros_like(counts)
        loop(flat, strides, (first, last), positions, (0, neurons), *axes, own)
        return own

    threads = _threads(activations)
    if threads == 1 or samples == 1 or neurons >= LINE * threads:
        _spread(of_neurons, neurons, threads, LINE, MAX_SLOTS // slots.shape[1])
    else:
        for own in _spread(of_samples, samples, threads):
            counts += own


def position_means(activations: torch.Tensor) -> torch.Tensor:
    flat, channel_major, strides = _in_memory(activations)
    samples, positions, neurons = activations.shape
    loop = _means_channel_major if channel_major else _means_token_major
    means = np.zeros((samples, neurons))
    _spread(lambda first, last: loop(flat, strides, (first, last), positions, means), samples, _threads(activations))
    return torch.from_numpy(means)


def extremes(activations: torch.Tensor, low: torch.Tensor, high: torch.Tensor, nonfinite: torch.Tensor) -> None:
    flat, channel_major, strides = _in_memory(activations)
    samples, positions, neurons = activations.shape
    loop = _extremes_channel_major if channel_major else _extremes_token_major

    def of_samples(first: int, last: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
        lowest = np.full(neurons, np.inf, flat.dtype)
        highest = -lowest
        nans = loop(flat, strides, (first, last), positions, lowest, highest)
        finite = not nans and bool(np.isfinite(lowest).all() and np.isfinite(highest).all())
        # Without -0.0, of which one and the same set of values would have either as its extreme, by their order.
        return torch.from_numpy(lowest).float() + 0.0, torch.from_numpy(highest).float() + 0.0, finite

    parts = _spread(of_samples, samples, _threads(activations))
    if all(finite for _, _, finite in parts):
        for lowest, highest, _ in parts:
            torch.minimum(low, lowest, out=low)
            torch.maximum(high, highest, out=high)
        return
    bad = ~activations.isfinite()
    nonfinite += bad.sum((0, 1))
    torch.minimum(low, activations.masked_fill(bad, torch.inf).amin((0, 1)).float() + 0.0, out=low)
    torch.maximum(high, activations.masked_fill(bad, -torch.inf).amax((0, 1)).float() + 0.0, out=high)


def _in_memory(activations: torch.Tensor) -> tuple[np.ndarray, bool, tuple[int, int]]:
    """The memory behind the activations as one line, whether positions (not neurons) are neighbours in it, and the
    distances between samples and between neurons (or positions). Copied only if neither are neighbours."""
    activations = activations.detach()
    if activations.dtype not in (torch.float32, torch.float64):
        activations = activations.float()  # NumPy has no bfloat16
    channel_major = activations.stride(2) != 1 and activations.shape[2] > 1
    values = activations.transpose(1, 2) if channel_major else activations
    if values.stride(2) != 1:
        values = values.contiguous()
    length = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, values.stride(), strict=True))
    line = values.as_strided((length if values.numel() else 0,), (1,))
    return line.numpy(), channel_major, (values.stride(0), values.stride(1))


def _threads(activations: torch.Tensor) -> int:
    return torch.get_num_threads() if activations.numel() > SMALL else 1


def _spread(work: Callable[[int, int], T], size: int, threads: int, grain: int = 1, most: int = MAX_SLOTS) -> list[T]:
    """`work(first, last)` on parts of `range(size)`, about one for each thread, cut at multiples of `grain` and not
    longer than `most`."""
    step = max(min(-(-size // (threads * grain)) * grain, most), 1)
    parts = [(first, min(first + step, size)) for first in range(0, size, step)]
    others = [_team(len(parts) - 1).submit(work, *part) for part in parts[1:]]
    return [work(*part) for part in parts[:1]] + [other.result() for other in others]


def _team(size: int) -> ThreadPoolExecutor:
    """Helpers of the calling thread alone: several threads would wait for each other's."""
    team: ThreadPoolExecutor | None = getattr(_own, "team", None)
    if team is None or _own.size < size:
        team = _own.team = ThreadPoolExecutor(size, "kernels")
        _own.size = size
    return team


_own = threading.local()


@compiled(error_model="numpy")
def _slot(value, centre, half_width, bins):  # type: ignore[no-untyped-def]
    # Without branches, so that it becomes vector instructions. What place a NaN has does not matter.
    z = (np.float64(value) - centre) / half_width
    place = min(np.int32((min(max(z, -1.0), 1.0) + 1.0) * (bins * 0.5)), bins - 1) + 1
    place = 0 if z < -1.0 else place
    place = bins + 1 if z > 1.0 else place
    return bins + 2 if z != z else place


@compiled(error_model="numpy")
def _count_token_major(flat, strides, samples, positions, neurons, centre, half_width, slots):  # type: ignore[no-untyped-def]
    first, count, width = neurons[0], neurons[1] - neurons[0], slots.shape[1]
    centre, half_width = centre[first : first + count], half_width[first : first + count]
    counts = slots[first : first + count].reshape(-1)
    places = np.empty((ROWS, count), np.uint32)  # unsigned: a signed index could count from the end
    for sample in range(samples[0], samples[1]):
        for start in range(0, positions, ROWS):
            rows = min(ROWS, positions - start)
            for row in range(rows):
                at = sample * strides[0] + (start + row) * strides[1] + first
                values = flat[at : at + count]
                for i in range(count):
                    places[row, i] = _slot(values[i], centre[i], half_width[i], width - 3) + i * width
            for row in range(rows):
                for i in range(count):
                    counts[places[row, i]] += 1


@compiled(error_model="numpy")
def _count_channel_major(flat, strides, samples, positions, neurons, centre, half_width, slots):  # type: ignore[no-untyped-def]
    width = slots.shape[1]
    places = np.empty((LANES, RUN), np.uint32)
    for first in range(neurons[0], neurons[1], LANES):
        lanes = min(LANES, neurons[1] - first)
        counts = slots[first : first + lanes].reshape(-1)
        for sample in range(samples[0], samples[1]):
            for start in range(0, positions, RUN):
                run = min(RUN, positions - start)
                for lane in range(lanes):
                    at = sample * strides[0] + (first + lane) * strides[1] + start
                    values, lane_places = flat[at : at + run], places[lane]
                    middle, half = centre[first + lane], half_width[first + lane]
                    for i in range(run):
                        lane_places[i] = _slot(values[i], middle, half, width - 3) + lane * width
                for i in range(run):
                    for lane in range(lanes):
                        counts[places[lane, i]] += 1


@compiled(error_model="numpy")
def _means_token_major(flat, strides, samples, positions, means):  # type: ignore[no-untyped-def]
    neurons = means.shape[1]
    for sample in range(samples[0], samples[1]):
        sums = means[sample]
        for position in range(positions):
            at = sample * strides[0] + position * strides[1]
            values = flat[at : at + neurons]
            for neuron in range(neurons):
                sums[neuron] += values[neuron]
        for neuron in range(neurons):
            sums[neuron] /= positions


@compiled(error_model="numpy")
def _means_channel_major(flat, strides, samples, positions, means):  # type: ignore[no-untyped-def]
    for sample in range(samples[0], samples[1]):
        for neuron in range(means.shape[1]):
            at = sample * strides[0] + neuron * strides[1]
            total = 0.0
            for value in flat[at : at + positions]:
                total += value
            means[sample, neuron] = total / positions


@compiled()
def _extremes_token_major(flat, strides, samples, positions, low, high):  # type: ignore[no-untyped-def]
    """Widens `low` and `high`, blind to NaN; how many those were."""
    neurons, nans = len(low), np.int32(0)
    for sample in range(samples[0], samples[1]):
        for position in range(positions):
            at = sample * strides[0] + position * strides[1]
            values = flat[at : at + neurons]
            for neuron in range(neurons):
                value = values[neuron]
                low[neuron] = value if value < low[neuron] else low[neuron]
                high[neuron] = value if value > high[neuron] else high[neuron]
                nans += np.int32(value != value)
    return nans


@compiled()
def _extremes_channel_major(flat, strides, samples, positions, low, high):  # type: ignore[no-untyped-def]
    nans = np.int32(0)
    for sample in range(samples[0], samples[1]):
        for neuron in range(len(low)):
            at = sample * strides[0] + neuron * strides[1]
            lowest, highest = low[neuron], high[neuron]
            for value in flat[at : at + positions]:
                lowest = value if value < lowest else lowest
                highest = value if value > highest else highest
                nans += np.int32(value != value)
            low[neuron], high[neuron] = lowest, highest
    return nans
