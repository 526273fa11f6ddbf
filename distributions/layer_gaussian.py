"""`layer-gaussian`: mean vector and covariance matrix of every layer over images.

gaussians = LayerGaussian(layers)
gaussians.update("block_0", activations)
mean, covariance = gaussians.compute("block_0")   # (neurons), (neurons, neurons) float64
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch

from distributions.base import Batch, Distribution
from distributions.moments import LayerMoments, layer_moments


class LayerGaussian(Distribution):
    """Running count, mean and co-moment matrix per layer, float64, merged as in `Gaussian`.

    On disk the co-moments of all layers are one array (neuron, other): row i holds neuron i against
    every neuron of its own layer, padded with zeros to the widest layer. An image with a NaN or
    infinite mean anywhere in a layer is left out of that layer, and `layer_count` falls short by it.
    """

    def __init__(self, layers: Mapping[str, int], device: torch.device | str = "cpu") -> None:
        super().__init__("layer-gaussian", layers)
        self.width = max(layers.values(), default=0)
        self.count = {k: torch.zeros((), dtype=torch.int64, device=device) for k in layers}
        self.mean = {k: torch.zeros(n, dtype=torch.float64, device=device) for k, n in layers.items()}
        self.comoment = {k: torch.zeros((n, n), dtype=torch.float64, device=device) for k, n in layers.items()}

    def fold(self, layer: str, batch: Batch) -> None:
        finite = batch.images.isfinite().all(dim=1, keepdim=True)
        count = finite.sum()
        mean = batch.images.where(finite, 0.0).sum(0) / count.clamp(min=1)
        centred = (batch.images - mean).where(finite, 0.0)
        between = self._shift(layer, count, mean)
        # The difference of the means is one image more: a single product in place, and no second matrix.
        images = torch.cat([centred, between[None]])
        self.comoment[layer].addmm_(images.T, images)

    def merge(self, other: Self) -> None:
        self.check_mergeable(other)
        for layer in self.layers:
            device = self.mean[layer].device
            between = self._shift(layer, other.count[layer].to(device), other.mean[layer].to(device))
            self.comoment[layer] += other.comoment[layer].to(device)
            self.comoment[layer].addr_(between, between)

    def _shift(self, layer: str, count: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Fold in the mean of `count` images. Returns the vector whose outer product the co-moments grow by."""
        mine = self.count[layer]
        share = count.double() / (mine + count).clamp(min=1)
        delta = mean - self.mean[layer]
        between = delta * (mine * share).sqrt()
        self.mean[layer] += delta * share
        self.count[layer] += count
        return between

    def compute(self, layer: str) -> LayerMoments:
        """Mean (neurons) and covariance (neurons, neurons), float64, divisor n - 1; zero for one image."""
        return layer_moments(*(self.rows(array, self.slices[layer]) for array in self.dims))

    def rows(self, array: str, part: slice) -> np.ndarray:
        shape = (part.stop - part.start, *([self.width] if array == "comoment" else []))
        rows = np.zeros(shape, np.uint64 if array == "layer_count" else np.float64)
        values = getattr(self, array.removeprefix("layer_"))
        for layer, own in self.slices.items():
            first, last = max(own.start, part.start), min(own.stop, part.stop)
            if first >= last:
                continue
            value, target = values[layer], rows[first - part.start : last - part.start]
            if array == "layer_count":
                target[:] = int(value)
            elif array == "layer_mean":
                target[:] = value[first - own.start : last - own.start].cpu().numpy()
            else:
                target[:, : self.layers[layer]] = value[first - own.start : last - own.start].cpu().numpy()
        return rows

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        count = self.checked(state, "layer_count", (self.neurons,), "uint64")
        mean = self.checked(state, "layer_mean", (self.neurons,), "float64")
        comoment = self.checked(state, "comoment", (self.neurons, self.width), "float64")
        for layer, part in self.slices.items():
            self.count[layer].copy_(count[part][0])
            self.mean[layer].copy_(mean[part])
            self.comoment[layer].copy_(comoment[part, : self.layers[layer]])
