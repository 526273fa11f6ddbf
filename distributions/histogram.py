"""`histogram-N`: for every neuron, N equal bins over its range; every position of every image counts.

histogram = Histogram(layers, bins=1000, ranges=ranges)
histogram.update("block_0", activations)
histogram.state()["histogram"]            # (neurons, bins) uint64
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch

from distributions.axes import HistogramAxes
from distributions.base import Batch, Distribution
from distributions.errors import IncompatibleError
from distributions.kernels import count_bins

MOST_RECENT = 2**31 - 1
"""Activations of a neuron that are counted in 32 bits, in half the memory that the processor's caches have to hold,
before they are taken into 64."""

_FLOWS = {"histogram_below": 0, "histogram_above": -2, "histogram_nan": -1}
"""The slots of what has no bin of its own."""


class Histogram(Distribution):
    """Bin counts per neuron, int64, with counters of what fell outside the range or was NaN.

    Values outside the range are clamped into the first or last bin, as the seed does, and counted in
    `histogram_below` / `histogram_above`. So `histogram.sum(1) + histogram_nan` is images x positions.
    """

    def __init__(
        self, layers: Mapping[str, int], bins: int, ranges: HistogramAxes, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(f"histogram-{bins}", layers)
        if dict(ranges.layers) != self.layers:
            raise IncompatibleError("the ranges were made for other layers than the network has")
        self.bins = bins
        self.ranges = ranges
        self.centre = torch.from_numpy(ranges.centre).to(device)
        self.half_width = torch.from_numpy(ranges.half_width).to(device)
        self.slots = torch.zeros((self.neurons, bins + 3), dtype=torch.int64, device=device)
        """Below the axis, the bins, above it, NaN: every activation adds one to one slot of its neuron."""
        self._recent = torch.zeros((self.neurons, bins + 3), dtype=torch.int32, device=device)
        self._room = dict.fromkeys(layers, MOST_RECENT)

    def like(self) -> tuple[object, ...]:
        return (*super().like(), self.bins, self.ranges.id)

    def fold(self, layer: str, batch: Batch) -> None:
        part = self.slices[layer]
        samples, positions, _ = batch.activations.shape
        if samples * positions > self._room[layer]:
            self._settle(layer)
        self._room[layer] -= samples * positions
        count_bins(batch.activations, self.centre[part], self.half_width[part], self._recent[part])

    def _settle(self, layer: str) -> None:
        """Take what was counted lately into the slots."""
        if self._room[layer] < MOST_RECENT:
            recent = self._recent[self.slices[layer]]
            self.slots[self.slices[layer]] += recent
            recent.zero_()
            self._room[layer] = MOST_RECENT

    def merge(self, other: Self) -> None:
        self.check_mergeable(other)
        self.slots += other.slots.to(self.slots.device)
        for layer, part in self.slices.items():
            if other._room[layer] < MOST_RECENT:
                self.slots[part] += other._recent[part].to(self.slots.device)

    def rows(self, array: str, part: slice) -> np.ndarray:
        if array in _FLOWS:
            return self._settled(part, _FLOWS[array]).astype(np.uint64)
        slots = self._settled(part)
        counts = slots[:, 1:-2].astype(np.uint64)
        counts[:, 0] += slots[:, 0].astype(np.uint64)
        counts[:, -1] += slots[:, -2].astype(np.uint64)
        return counts

    def _settled(self, part: slice, slots: int | slice = slice(None)) -> np.ndarray:
        return (self.slots[part, slots] + self._recent[part, slots]).cpu().numpy()

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        counts = self.checked(state, "histogram", (self.neurons, self.bins), "uint64")
        below, above, nan = (self.checked(state, name, (self.neurons,), "uint64") for name in _FLOWS)
        counts[:, 0] -= below
        counts[:, -1] -= above
        self._recent.zero_()
        self._room = dict.fromkeys(self.layers, MOST_RECENT)
        self.slots.copy_(torch.cat([below[:, None], counts, above[:, None], nan[:, None]], dim=1))
