"""The contract every distribution keeps: built empty, `update`, `merge`, `state`.

A distribution summarises, neuron by neuron, the activations it was shown. It is a commutative
monoid, so any grouping of the images into batches, shards or machines gives the same result:

    whole = Gaussian({"block_0": 3})
    whole.update("block_0", first)       # (samples, positions, neurons)
    whole.update("block_0", second)

    left, right = Gaussian({"block_0": 3}), Gaussian({"block_0": 3})
    left.update("block_0", first)
    right.update("block_0", second)
    left.merge(right)                    # equals `whole`; `right` is untouched

The laws are proved for every distribution by `tests/unit/distributions/test_laws.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Self

import numpy as np
import torch

from distributions.errors import IncompatibleError, UnknownLayerError
from distributions.kernels import position_means
from distributions.spec import arrays_of, layer_slices

State = dict[str, np.ndarray]
"""Plain arrays under the names they have on disk; the first dimension is always `neuron`."""


class Batch:
    """The activations of a layer for a batch of images, and what several distributions need of them, computed once."""

    def __init__(self, activations: torch.Tensor) -> None:
        self.activations = activations
        """(samples, positions, neurons)"""

    @cached_property
    def images(self) -> torch.Tensor:
        """Each image's mean over positions, (samples, neurons) float64."""
        return position_means(self.activations)


class Distribution(ABC):
    """Statistics of every neuron of a network, all layers side by side.

    The neurons of all layers form one axis in network order; `slices[layer]` is a layer's part.
    """

    def __init__(self, name: str, layers: Mapping[str, int]) -> None:
        self.name = name
        self.layers = dict(layers)
        self.slices = layer_slices(layers)
        self.neurons = sum(layers.values())
        self.dims = arrays_of(name)
        """Dimension names of every array of `state`, for instance `{"histogram": ("neuron", "bin")}`."""

    def update(self, layer: str, activations: torch.Tensor) -> None:
        """Fold a batch in. `activations` is `(samples, positions, neurons)`, floating, any strides."""
        self.check_batch(layer, activations)
        self.fold(layer, Batch(activations))

    @abstractmethod
    def fold(self, layer: str, batch: Batch) -> None:
        """Fold in a batch whose layer and shape were checked. Other distributions share the batch: do not change it."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Fold another distribution of the same kind in; `other` is neither changed nor aliased."""

    @abstractmethod
    def rows(self, array: str, part: slice) -> np.ndarray:
        """A copy of some neurons' rows of one of the arrays that restore this distribution, by its name on disk."""

    def state(self) -> State:
        """Copies of all these arrays, by their names."""
        return {array: self.rows(array, slice(0, self.neurons)) for array in self.dims}

    @abstractmethod
    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace the contents by a `state` of the same kind; raises `IncompatibleError` on a wrong shape."""

    def like(self) -> tuple[object, ...]:
        """What must be equal for a merge; kinds with parameters extend it."""
        return (type(self), self.name, self.layers)

    def check_mergeable(self, other: Distribution) -> None:
        if self.like() != other.like():
            raise IncompatibleError(
                f"cannot merge {other.name} into {self.name}: kind, layers and parameters must be equal"
            )

    def check_batch(self, layer: str, activations: torch.Tensor) -> None:
        if layer not in self.layers:
            raise UnknownLayerError(f"unknown layer {layer!r}; layers: {', '.join(self.layers)}")
        if activations.ndim != 3 or activations.shape[2] != self.layers[layer]:
            raise ValueError(
                f"layer {layer!r} expects (samples, positions, {self.layers[layer]}), got {tuple(activations.shape)}"
            )

    def checked(self, state: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """One array of a `state` as a tensor of its own, refused when its shape or type is another."""
        if name not in state:
            raise IncompatibleError(f"{self.name}: the state has no array {name!r}")
        array = state[name]
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise IncompatibleError(f"{self.name}: {name!r} should be {dtype}{shape}, found {array.dtype}{array.shape}")
        return torch.from_numpy(np.array(array.astype(_SIGNED.get(dtype, dtype)), copy=True, order="C"))


_SIGNED = {"uint64": "int64"}  # torch has no arithmetic on uint64; counts stay far below 2**63
