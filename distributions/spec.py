"""The spec: what was measured, and how. No torch is needed to know it.

spec.layers                               # {layer: neurons} in network order
spec.id                                   # VDNAs of one id may be merged
arrays_of("histogram-1000")               # names on disk, and their dimensions
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from distributions.axes import HistogramAxes

DECIDING = ("architecture", "weights", "preprocessing", "precision")
"""Fields of a spec that, with its extractor's name and layers, decide the activations."""

UNSTATED = "not stated"
"""A deciding field of which a file of another program says nothing. Of what it says in part, the field is a pattern
(`clean*-center-*`)."""

POSITIONS = {"histogram": "all", "gaussian": "mean", "layer-gaussian": "mean", "activation-ranges": "all"}
"""What each kind of distribution counts as samples, unless told otherwise: all positions of an image, or their mean."""

ALLOWED = "histogram-N (N bins, for instance histogram-1000), gaussian, layer-gaussian, activation-ranges"

ARRAYS: dict[str, dict[str, tuple[str, ...]]] = {
    "histogram": {
        "histogram": ("neuron", "bin"),
        "histogram_below": ("neuron",),
        "histogram_above": ("neuron",),
        "histogram_nan": ("neuron",),
    },
    "gaussian": {"count": ("neuron",), "mean": ("neuron",), "m2": ("neuron",)},
    "layer-gaussian": {"layer_count": ("neuron",), "layer_mean": ("neuron",), "comoment": ("neuron", "other")},
    "activation-ranges": {"min": ("neuron",), "max": ("neuron",), "range_nonfinite": ("neuron",)},
}
"""The arrays of each kind of distribution, as they are named on disk, and their dimensions."""


@dataclass(frozen=True)
class Spec:
    """What was measured, and how. Two VDNAs may be merged if the `id`s of their specs are equal.

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
    ranges: HistogramAxes | None = None
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

    def has(self, kind: str) -> bool:
        """Whether it has `histogram`, `gaussian`, `layer-gaussian` or `activation-ranges`."""
        return kind in map(kind_of, self.distributions)

    def samples_of(self, distribution: str) -> str:
        """ "all" if every position of an image is a sample of that distribution, "mean" if their mean is."""
        kind = kind_of(distribution)
        return self.positions.get(kind, POSITIONS[kind])

    def has_default_samples(self, distribution: str) -> bool:
        """Whether the samples of that distribution are those that `POSITIONS` names."""
        return self.samples_of(distribution) == POSITIONS[kind_of(distribution)]

    @property
    def needs_ranges(self) -> bool:
        return has_histogram(self.distributions)

    @cached_property
    def network_id(self) -> str:
        """Hash of every field that decides the activations, 16 hexadecimal digits."""
        fields = [self.extractor, *(getattr(self, name) for name in DECIDING), list(self.layers.items())]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]

    @property
    def network(self) -> str:
        """Former name of `network_id`."""
        return self.network_id

    @cached_property
    def id(self) -> str:
        """Hash of the network's id, the distributions and the id of the histogram axes, 16 hexadecimal digits."""
        ranges = self.ranges.id if self.ranges and self.needs_ranges else ""
        fields = [self.network_id, sorted(self.distributions), ranges]
        others = [name for name in sorted(self.distributions) if not self.has_default_samples(name)]
        fields += [others] if others else []
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


def layer_slices(layers: Mapping[str, int]) -> dict[str, slice]:
    """`{layer: its part of the neuron axis}`, layers laid side by side in the order given."""
    slices, start = {}, 0
    for layer, neurons in layers.items():
        slices[layer] = slice(start, start + neurons)
        start += neurons
    return slices


def bins_of(name: str) -> int | None:
    """The N of `histogram-N`; None for the other distributions; `ValueError` for a name that is none."""
    if name in ("gaussian", "layer-gaussian", "activation-ranges"):
        return None
    match = re.fullmatch(r"histogram-([1-9]\d{0,5})", name)
    if not match:
        raise ValueError(f"unknown distribution {name!r}; allowed: {ALLOWED}")
    return int(match[1])


def kind_of(distribution: str) -> str:
    """The kind of a distribution: its name without the number of bins."""
    return "histogram" if distribution.startswith("histogram") else distribution


def has_histogram(distributions: Iterable[str]) -> bool:
    """Whether histograms are among them, which need activation ranges."""
    return any(bins_of(name) is not None for name in distributions)


def arrays_of(distribution: str) -> dict[str, tuple[str, ...]]:
    """The arrays of a distribution by their names on disk, and their dimensions."""
    return ARRAYS[kind_of(distribution)]


def difference_of_layers(a: Mapping[str, int], b: Mapping[str, int]) -> str:
    """What differs between two sets of layers, in words; "" if nothing does. At most three layers of a kind are named.

    `a` and `b` are numbers of neurons by the layers' names.
    """
    kinds = {
        "only the first has": [layer for layer in a if layer not in b],
        "only the second has": [layer for layer in b if layer not in a],
        "other numbers of neurons in": [layer for layer in a if layer in b and a[layer] != b[layer]],
    }
    return "; ".join(
        f"{words} {', '.join(layers[:3])}{f' and {len(layers) - 3} more' * (len(layers) > 3)}"
        for words, layers in kinds.items()
        if layers
    )


def difference_between(a: Spec, b: Spec) -> str:
    """Which fields of two specs differ, in words."""
    fields = ("extractor", *DECIDING, "distributions")
    words = [
        f"{name}: {getattr(a, name)} and {getattr(b, name)}" for name in fields if getattr(a, name) != getattr(b, name)
    ]
    if layers := difference_of_layers(a.layers, b.layers):
        words.append(f"layers: {layers}")
    if a.ranges and b.ranges and a.ranges.id != b.ranges.id:
        words.append(f"activation ranges: {a.ranges.id} and {b.ranges.id}")
    if dict(a.positions) != dict(b.positions):
        words.append(f"positions: {dict(a.positions)} and {dict(b.positions)}")
    return "; ".join(words) or "the same fields in another order"
