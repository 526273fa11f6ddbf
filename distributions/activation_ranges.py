"""`activation-ranges`: the smallest and largest activation of each neuron, from which histogram axes are made.

observed = ActivationRanges({"block_0": 2})
observed.update("block_0", torch.tensor([[[0.0, -1.0], [5.0, 1.0]]]))
observed.low, observed.high               # [0, -1], [5, 1]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch

from distributions.base import Batch, Distribution
from distributions.kernels import extremes


class ActivationRanges(Distribution):
    """Minimum and maximum of every neuron over images and positions, float32; empty is (+inf, -inf)."""

    def __init__(self, layers: Mapping[str, int], device: torch.device | str = "cpu") -> None:
        super().__init__("activation-ranges", layers)
        self.low = torch.full((self.neurons,), torch.inf, device=device)
        self.high = torch.full((self.neurons,), -torch.inf, device=device)
        self.nonfinite = torch.zeros(self.neurons, dtype=torch.int64, device=device)

    def fold(self, layer: str, batch: Batch) -> None:
        part = self.slices[layer]
        extremes(batch.activations, self.low[part], self.high[part], self.nonfinite[part])

    def merge(self, other: Self) -> None:
        self.check_mergeable(other)
        torch.minimum(self.low, other.low.to(self.low.device), out=self.low)
        torch.maximum(self.high, other.high.to(self.high.device), out=self.high)
        self.nonfinite += other.nonfinite.to(self.nonfinite.device)

    def rows(self, array: str, part: slice) -> np.ndarray:
        if array == "range_nonfinite":
            return self.nonfinite[part].cpu().numpy().astype(np.uint64)
        return (self.low if array == "min" else self.high)[part].cpu().numpy().copy()

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        shape = (self.neurons,)
        self.low.copy_(self.checked(state, "min", shape, "float32"))
        self.high.copy_(self.checked(state, "max", shape, "float32"))
        self.nonfinite.copy_(self.checked(state, "range_nonfinite", shape, "uint64"))
