"""The VDNA: a set of images as the distributions of every neuron's activations.

Everything is a VDNA. A partial is the VDNA of a few shards, a dataset's VDNA is the merge of its
partials, the union of two datasets is the merge of theirs:

    whole = VDNA(spec)
    for partial in partials:
        whole.merge(partial)
    whole.images                              # sum of the ledger
    whole.histogram("block_0")                # (neurons, bins) uint64
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch

from distributions.activation_ranges import ActivationRanges
from distributions.base import Batch, Distribution, State
from distributions.errors import IncompatibleError
from distributions.gaussian import Gaussian
from distributions.histogram import Histogram
from distributions.layer_gaussian import LayerGaussian
from distributions.ledger import Ledger
from distributions.spec import DECIDING, UNSTATED, Spec, bins_of, difference_between
from distributions.view import View

D = TypeVar("D", bound=Distribution)


class VDNA(View):
    """Distributions and ledger of a set of images under one spec. Built empty; filled by `update`."""

    def __init__(self, spec: Spec, device: torch.device | str = "cpu") -> None:
        self.spec = spec
        self.ledger = Ledger()
        self.distributions = {name: _distribution(name, spec, device) for name in spec.distributions}

    def update(self, layer: str, activations: torch.Tensor) -> None:
        """Fold one layer's activations of a batch, (samples, positions, neurons), into every distribution."""
        batch = Batch(activations)
        for distribution in self.distributions.values():
            distribution.check_batch(layer, activations)
            for part in self._samples(distribution, batch):
                distribution.fold(layer, part)

    def _samples(self, distribution: Distribution, batch: Batch) -> Iterable[Batch]:
        """The batch as the distribution shall see it: most take every position, Gaussians each image's mean."""
        samples = self.spec.samples_of(distribution.name)
        if samples == "all" and isinstance(distribution, Gaussian | LayerGaussian):
            return (Batch(image.unsqueeze(1)) for image in batch.activations)  # an image for every position
        if samples == "mean" and isinstance(distribution, Histogram | ActivationRanges):
            return (Batch(batch.images.unsqueeze(1)),)
        return (batch,)

    def merge(self, other: VDNA) -> None:
        """Fold in the VDNA of other images; raises `IncompatibleError` on another spec or a shared shard."""
        if other.spec.id != self.spec.id:
            raise IncompatibleError(
                f"cannot merge VDNAs of different specs ({difference_between(self.spec, other.spec)})"
            )
        if unknown := [name for name in DECIDING if UNSTATED in getattr(self.spec, name)]:
            raise IncompatibleError(f"cannot merge what does not state its {', '.join(unknown)}")
        self.ledger.merge(other.ledger)
        for name, distribution in self.distributions.items():
            distribution.merge(other.distributions[name])

    @property
    def images(self) -> int:
        """Images counted, by the ledger."""
        return self.ledger.counted

    def rows(self, array: str, part: slice) -> np.ndarray:
        """Some neurons' rows of one of its arrays, copied."""
        for distribution in self.distributions.values():
            if array in distribution.dims:
                return distribution.rows(array, part)
        raise IncompatibleError(f"this VDNA has no {array}: it was computed with {', '.join(self.spec.distributions)}")

    def find(self, kind: type[D]) -> D:
        """The distribution of that kind; raises `IncompatibleError` if the VDNA was computed without."""
        for distribution in self.distributions.values():
            if isinstance(distribution, kind):
                return distribution
        raise IncompatibleError(
            f"this VDNA has no {kind.__name__}: it was computed with {', '.join(self.spec.distributions)}"
        )

    def state(self) -> State:
        """Every distribution's arrays, by their names on disk."""
        return {name: array for d in self.distributions.values() for name, array in d.state().items()}

    def load(self, state: Mapping[str, np.ndarray], ledger: Ledger) -> None:
        """Replace the contents by a `state` of the same spec and its ledger."""
        for distribution in self.distributions.values():
            distribution.load(state)
        self.ledger = ledger

    def digest(self) -> str:
        """SHA-256 over every array and what the ledger's shards held: equal for equal images, however they were
        merged and wherever they lay."""
        digest = hashlib.sha256()
        for name, array in sorted(self.state().items()):
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(self.ledger.digest().encode())
        return digest.hexdigest()


def _distribution(name: str, spec: Spec, device: torch.device | str) -> Distribution:
    bins = bins_of(name)
    if bins is not None:
        assert spec.ranges is not None  # Spec refuses histograms without ranges
        return Histogram(spec.layers, bins, spec.ranges, device)
    if name == "gaussian":
        return Gaussian(spec.layers, device)
    if name == "layer-gaussian":
        return LayerGaussian(spec.layers, device)
    return ActivationRanges(spec.layers, device)
