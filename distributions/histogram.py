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

from distributions.base import Distribution, IncompatibleError, State
from distributions.kernels import count_bins
from distributions.ranges import Ranges

_FLOWS = ("histogram_below", "histogram_above", "histogram_nan")


class Histogram(Distribution):
    """Bin counts per neuron, int64, with counters of what fell outside the range or was NaN.

    Values outside the range are clamped into the first or last bin, as the seed does, and counted in
    `histogram_below` / `histogram_above`. So `histogram.sum(1) + histogram_nan` is images x positions.
    """

    dims = {"histogram": ("neuron", "bin"), **dict.fromkeys(_FLOWS, ("neuron",))}

    def __init__(
        self, layers: Mapping[str, int], bins: int, ranges: Ranges, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(f"histogram-{bins}", layers)
        if dict(ranges.layers) != self.layers:
            raise IncompatibleError("the ranges were made for other layers than the network has")
        self.bins = bins
        self.ranges = ranges
        self.centre = torch.from_numpy(ranges.centre).to(device)
        self.half_width = torch.from_numpy(ranges.half_width).to(device)
        self.counts = torch.zeros((self.neurons, bins), dtype=torch.int64, device=device)
        self.flows = {name: torch.zeros(self.neurons, dtype=torch.int64, device=device) for name in _FLOWS}

    def like(self) -> tuple[object, ...]:
        return (*super().like(), self.bins, self.ranges.id)

    def update(self, layer: str, activations: torch.Tensor) -> None:
        self.check_batch(layer, activations)
        part = self.slices[layer]
        flows = (self.flows[name][part] for name in _FLOWS)
        count_bins(activations, self.centre[part], self.half_width[part], self.counts[part], *flows)

    def merge(self, other: Self) -> None:
        self.check_mergeable(other)
        self.counts += other.counts.to(self.counts.device)
        for name in _FLOWS:
            self.flows[name] += other.flows[name].to(self.counts.device)

    def state(self) -> State:
        arrays = {"histogram": self.counts, **self.flows}
        return {name: counts.cpu().numpy().astype(np.uint64) for name, counts in arrays.items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        self.counts.copy_(self.checked(state, "histogram", (self.neurons, self.bins), "uint64"))
        for name in _FLOWS:
            self.flows[name].copy_(self.checked(state, name, (self.neurons,), "uint64"))
