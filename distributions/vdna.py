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
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar, overload

import numpy as np
import torch

from distributions.base import Batch, Distribution, IncompatibleError, State
from distributions.gaussian import Gaussian
from distributions.histogram import Histogram
from distributions.layer_gaussian import LayerGaussian
from distributions.ledger import Ledger
from distributions.ranges import ActivationRanges, Ranges

D = TypeVar("D", bound=Distribution)

DECIDING = ("architecture", "weights", "preprocessing", "precision")
"""Fields of a spec that, with its extractor's name and layers, decide the activations."""

UNSTATED = "not stated"
"""A deciding field of which a file of another program says nothing. Of what it says in part, the field is a pattern
(`clean*-center-*`)."""

POSITIONS = {"histogram": "all", "gaussian": "mean", "layer-gaussian": "mean", "activation-ranges": "all"}
"""What each kind of distribution counts as samples, unless told otherwise: all positions of an image, or their mean."""

ALLOWED = "histogram-N (N bins, for instance histogram-1000), gaussian, layer-gaussian, activation-ranges"


class Moments(NamedTuple):
    """Mean (neurons) and variance (neurons), or covariance (neurons, neurons); float64, divisor n - 1."""

    mean: np.ndarray
    spread: np.ndarray


class Extremes(NamedTuple):
    """Smallest and largest activation per neuron, (neurons) float32."""

    minimum: np.ndarray
    maximum: np.ndarray


@dataclass(frozen=True)
class Spec:
    """What was measured, and how: two VDNAs may be merged when their specs have one `id`.

    `architecture` says which network it is and which of its modules the layers are, `weights` is the
    SHA-256 of its parameters as loaded, `preprocessing` the id of the image transformation, `layers`
    the neurons of each layer in network order. `positions` are kinds of distribution whose samples are others than
    `POSITIONS` says.
    """

    extractor: str
    architecture: str
    weights: str
    preprocessing: str
    precision: str
    layers: Mapping[str, int]
    distributions: tuple[str, ...]
    ranges: Ranges | None = None
    positions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, samples in self.positions.items():
            if kind not in POSITIONS or samples not in ("all", "mean"):
                raise ValueError(f"positions={{{kind}: {samples}}}: give all or mean for {', '.join(POSITIONS)}")
        if not self.distributions:
            raise ValueError(f"no distribution asked for; allowed: {ALLOWED}")
        kinds = [bins_of(name) is not None or name for name in self.distributions]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each kind of distribution can be asked for once, got {', '.join(self.distributions)}")
        if self.needs_ranges and self.ranges is None:
            raise ValueError("histograms need activation ranges")

    def samples_of(self, distribution: str) -> str:
        """ "all" if every position of an image is a sample of that distribution, "mean" if their mean is."""
        kind = _kind(distribution)
        return self.positions.get(kind, POSITIONS[kind])

    def usual(self, distribution: str) -> bool:
        """Whether its samples are those that `POSITIONS` says."""
        return self.samples_of(distribution) == POSITIONS[_kind(distribution)]

    @property
    def needs_ranges(self) -> bool:
        return has_histogram(self.distributions)

    @cached_property
    def network(self) -> str:
        """Hash of everything that decides the activations."""
        fields = [self.extractor, *(getattr(self, name) for name in DECIDING), list(self.layers.items())]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]

    @cached_property
    def id(self) -> str:
        """Hash of the network, the distributions and the ranges id."""
        ranges = self.ranges.id if self.ranges and self.needs_ranges else ""
        fields = [self.network, sorted(self.distributions), ranges]
        others = [name for name in sorted(self.distributions) if not self.usual(name)]
        fields += [others] if others else []
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


class VDNA:
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
    def layers(self) -> dict[str, int]:
        """`{layer: neurons}` in network order."""
        return dict(self.spec.layers)

    @property
    def images(self) -> int:
        """Images counted, by the ledger."""
        return self.ledger.counted

    def part(self, layer: str | None) -> slice:
        """The neurons of a layer on the neuron axis, or all of them."""
        if layer is None:
            return slice(None)
        slices = next(iter(self.distributions.values())).slices
        if layer not in slices:
            raise ValueError(f"unknown layer {layer!r}; layers: {', '.join(slices)}")
        return slices[layer]

    def histogram(self, layer: str | None = None) -> np.ndarray:
        """Counts (neurons, bins) uint64 of a layer, or of all layers in network order."""
        return self.find(Histogram).counts(self.part(layer))

    def gaussian(self, layer: str | None = None) -> Moments:
        """Mean and variance per neuron; from the layer Gaussians' diagonals if only those were computed."""
        part = self.part(layer)
        if any(isinstance(d, Gaussian) for d in self.distributions.values()):
            mean, variance = self.find(Gaussian).compute()
        else:
            moments = [self.find(LayerGaussian).compute(name) for name in self.layers]
            mean = np.concatenate([m for m, _ in moments])
            variance = np.concatenate([np.diagonal(covariance) for _, covariance in moments])
        return Moments(mean[part], variance[part])

    @overload
    def layer_gaussian(self, layer: str) -> Moments: ...
    @overload
    def layer_gaussian(self, layer: None = None) -> dict[str, Moments]: ...
    def layer_gaussian(self, layer: str | None = None) -> Moments | dict[str, Moments]:
        """Mean vector and covariance matrix of a layer, or of each: `{layer: Moments}`."""
        gaussians = self.find(LayerGaussian)
        if layer is None:
            return {name: Moments(*gaussians.compute(name)) for name in self.layers}
        self.part(layer)
        return Moments(*gaussians.compute(layer))

    def ranges(self, layer: str | None = None) -> Extremes:
        """Observed minimum and maximum per neuron."""
        observed, part = self.find(ActivationRanges), self.part(layer)
        return Extremes(observed.low[part].cpu().numpy(), observed.high[part].cpu().numpy())

    def has(self, kind: type[Distribution]) -> bool:
        return any(isinstance(d, kind) for d in self.distributions.values())

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


def bins_of(name: str) -> int | None:
    """The N of `histogram-N`; None for the other distributions; `ValueError` for a name that is none."""
    if name in ("gaussian", "layer-gaussian", "activation-ranges"):
        return None
    match = re.fullmatch(r"histogram-([1-9]\d{0,5})", name)
    if not match:
        raise ValueError(f"unknown distribution {name!r}; allowed: {ALLOWED}")
    return int(match[1])


def _kind(distribution: str) -> str:
    return "histogram" if distribution.startswith("histogram") else distribution


def has_histogram(distributions: Iterable[str]) -> bool:
    """Whether histograms are among them, which need activation ranges."""
    return any(bins_of(name) is not None for name in distributions)


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


def difference_between(a: Spec, b: Spec) -> str:
    """Which fields of two specs differ, in words."""
    fields = ("extractor", *DECIDING, "distributions")
    words = [
        f"{name}: {getattr(a, name)} and {getattr(b, name)}" for name in fields if getattr(a, name) != getattr(b, name)
    ]
    if dict(a.layers) != dict(b.layers):
        words.append("other layers")
    if a.ranges and b.ranges and a.ranges.id != b.ranges.id:
        words.append(f"activation ranges: {a.ranges.id} and {b.ranges.id}")
    if dict(a.positions) != dict(b.positions):
        words.append(f"positions: {dict(a.positions)} and {dict(b.positions)}")
    return "; ".join(words) or "the same fields in another order"
