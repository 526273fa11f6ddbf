"""`histogram-N`: for each neuron, N equal bins over its axis; every position of every image is counted.

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
from distributions.spec import difference_of_layers

MAX_RECENT_COUNT = 2**31 - 1
"""Activations of a neuron that are counted in 32 bits before they are added to the 64-bit counts. 32 bits halve the
memory that a batch touches."""

_FLOW_SLOTS = {"histogram_below": 0, "histogram_above": -2, "histogram_nan": -1}
"""The slots of underflow, overflow and NaN, by the names of their arrays on disk."""


class Histogram(Distribution):
    """Bin counts of each neuron, int64, and its underflow, overflow and NaN.

    Values outside the axis are clamped into the first or last bin, as in the vdna library, and counted in
    `histogram_below` (underflow) and `histogram_above` (overflow). `histogram.sum(1) + histogram_nan` is the number of
    images times the number of positions. Raises `IncompatibleError` if the axes are of other layers.
    """

    def __init__(
        self, layers: Mapping[str, int], bins: int, ranges: HistogramAxes, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(f"histogram-{bins}", layers)
        if difference := difference_of_layers(ranges.layers, self.layers):
            raise IncompatibleError(f"the histogram axes are of other layers than the network's: {difference}")
        self.bins = bins
        self.ranges = ranges
        self.centre = torch.from_numpy(ranges.centre).to(device)
        self.half_width = torch.from_numpy(ranges.half_width).to(device)
        self.slots = torch.zeros((self.neurons, bins + 3), dtype=torch.int64, device=device)
        """Underflow, the bins, overflow, NaN, (neurons, bins + 3). An activation adds one to one slot of its neuron."""
        self._recent = torch.zeros((self.neurons, bins + 3), dtype=torch.int32, device=device)
        self._room = dict.fromkeys(layers, MAX_RECENT_COUNT)

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
        """Add the 32-bit counts of a layer to the slots."""
        if self._room[layer] < MAX_RECENT_COUNT:
            recent = self._recent[self.slices[layer]]
            self.slots[self.slices[layer]] += recent
            recent.zero_()
            self._room[layer] = MAX_RECENT_COUNT

    def merge(self, other: Self) -> None:
        self.check_mergeable(other)
        self.slots += other.slots.to(self.slots.device)
        for layer, part in self.slices.items():
            if other._room[layer] < MAX_RECENT_COUNT:
                self.slots[part] += other._recent[part].to(self.slots.device)

    def rows(self, array: str, part: slice) -> np.ndarray:
        if array in _FLOW_SLOTS:
            return self._settled(part, _FLOW_SLOTS[array]).astype(np.uint64)
        slots = self._settled(part)
        counts = slots[:, 1:-2].astype(np.uint64)
        counts[:, 0] += slots[:, 0].astype(np.uint64)
        counts[:, -1] += slots[:, -2].astype(np.uint64)
        return counts

    def _settled(self, part: slice, slots: int | slice = slice(None)) -> np.ndarray:
        return (self.slots[part, slots] + self._recent[part, slots]).cpu().numpy()

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        counts = self.checked(state, "histogram", (self.neurons, self.bins), "uint64")
        underflow, overflow, nan = (self.checked(state, name, (self.neurons,), "uint64") for name in _FLOW_SLOTS)
        counts[:, 0] -= underflow
        counts[:, -1] -= overflow
        self._recent.zero_()
        self._room = dict.fromkeys(self.layers, MAX_RECENT_COUNT)
        self.slots.copy_(torch.cat([underflow[:, None], counts, overflow[:, None], nan[:, None]], dim=1))
