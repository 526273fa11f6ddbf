"""`gaussian`: mean and variance of every neuron over images (each image is its mean over positions).

gaussian = Gaussian(layers)
gaussian.update("block_0", activations)
mean, variance = gaussian.compute()       # (neurons) float64, variance with divisor n - 1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch

from distributions.base import Batch, Distribution
from distributions.moments import Moments, neuron_moments


class Gaussian(Distribution):
    """Running count, mean and centred sum of squares (M2), float64, merged by the pairwise update of
    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).

    An image whose mean is NaN or infinite for a neuron is left out for that neuron, so `count` falls
    short of the number of images by exactly the images left out.
    """

    def __init__(self, layers: Mapping[str, int], device: torch.device | str = "cpu") -> None:
        super().__init__("gaussian", layers)
        self.count = torch.zeros(self.neurons, dtype=torch.int64, device=device)
        self.mean = torch.zeros(self.neurons, dtype=torch.float64, device=device)
        self.m2 = torch.zeros(self.neurons, dtype=torch.float64, device=device)

    def fold(self, layer: str, batch: Batch) -> None:
        images = batch.images
        finite = images.isfinite()
        count = finite.sum(0)
        mean = images.where(finite, 0.0).sum(0) / count.clamp(min=1)
        m2 = (images - mean).where(finite, 0.0).square().sum(0)
        self._fold(self.slices[layer], count, mean, m2)

    def merge(self, other: Self) -> None:
        self.check_mergeable(other)
        device = self.mean.device
        self._fold(slice(None), other.count.to(device), other.mean.to(device), other.m2.to(device))

    def _fold(self, part: slice, count: torch.Tensor, mean: torch.Tensor, m2: torch.Tensor) -> None:
        mine = self.count[part]
        share = count.double() / (mine + count).clamp(min=1)  # int64 / int64 alone would give float32
        delta = mean - self.mean[part]
        self.mean[part] += delta * share
        self.m2[part] += m2 + delta.square() * (mine * share)
        self.count[part] += count

    def compute(self) -> Moments:
        """Mean and variance, (neurons) float64; the variance of fewer than two images is 0."""
        return neuron_moments(*self.state().values())

    def rows(self, array: str, part: slice) -> np.ndarray:
        values: np.ndarray = getattr(self, array)[part].cpu().numpy()
        return values.astype(np.uint64 if array == "count" else np.float64, copy=True)

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        shape = (self.neurons,)
        self.count.copy_(self.checked(state, "count", shape, "uint64"))
        self.mean.copy_(self.checked(state, "mean", shape, "float64"))
        self.m2.copy_(self.checked(state, "m2", shape, "float64"))
