"""Histogram axes: for each neuron of a network, the interval that its histogram covers.

`ActivationRanges` observes minima and maxima; `HistogramAxes` is the fixed set of axes, made from them, that every
VDNA of a catalogue shares, so that histograms can be compared. Torch is not needed:

    observed = ActivationRanges({"block_0": 2})
    observed.update("block_0", torch.tensor([[[0.0, -1.0], [5.0, 1.0]]]))
    axes = HistogramAxes.calibrated(observed)       # [-0.5, 5.5] and [-1.2, 1.2]: a tenth of the width on each side
    axes.id                                         # content hash: histograms are comparable if their axes have one id
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from distributions.errors import IncompatibleError

if TYPE_CHECKING:
    import torch

VDNA_SCALE = 1.2
"""The vdna library multiplies the observed minimum and maximum by this (Ramtoula et al. 2023; vdna 0.1.1)."""

MARGIN = 0.1
"""The rule `widen` adds this fraction of the observed width on each side. For an interval symmetric about zero it
equals the vdna library's rule; unlike that rule, it does not shrink an interval whose minimum is positive."""

MAX_JSON = 1 << 28
"""Characters of the largest ranges file that is read; the file of a million neurons has 60 million."""


class ObservedRanges(Protocol):
    """The smallest and largest activation of each neuron, as `ActivationRanges` has them."""

    @property
    def layers(self) -> Mapping[str, int]:
        """`{layer: neurons}` in network order."""

    @property
    def low(self) -> torch.Tensor:
        """Minima, (neurons) float32, on any device."""

    @property
    def high(self) -> torch.Tensor:
        """Maxima, (neurons) float32, on any device."""


@dataclass(frozen=True, eq=False)
class HistogramAxes:
    """One histogram axis per neuron, from the observed minimum and maximum and the rule that widens them.

    `layers` is `{layer: neurons}` in network order; `minimum` and `maximum` are (neurons) float64, in units of the
    activations. `rule` is `"widen"` (adds `MARGIN` of the width on each side), `"scale"` (the vdna library's rule:
    multiplies both ends by `VDNA_SCALE`) or `"exact"` (minimum and maximum are the edges already).

    Raises `ValueError` for an unknown rule, for a bound that is not finite and for a minimum above its maximum, and
    `IncompatibleError` if the number of bounds is not the number of neurons.
    """

    layers: Mapping[str, int]
    minimum: np.ndarray
    maximum: np.ndarray
    rule: str = "widen"

    def __post_init__(self) -> None:
        if self.rule not in ("widen", "scale", "exact"):
            raise ValueError(f"unknown ranges rule {self.rule!r}; allowed: widen, scale, exact")
        shape = (sum(self.layers.values()),)
        if self.minimum.shape != shape or self.maximum.shape != shape:
            raise IncompatibleError(f"ranges need one minimum and maximum for each of {shape[0]} neurons")
        if not (np.isfinite(self.minimum).all() and np.isfinite(self.maximum).all()):
            raise ValueError("ranges must be finite: calibrate on at least one readable image")
        if (self.minimum > self.maximum).any():
            raise ValueError("ranges must have minimum <= maximum for every neuron")

    @classmethod
    def calibrated(cls, observed: ObservedRanges) -> HistogramAxes:
        """Axes by the rule `widen`. Raises `ValueError` if a neuron has observed no finite activation."""
        low, high = (t.cpu().numpy().astype(np.float64) for t in (observed.low, observed.high))
        return cls(dict(observed.layers), low, high)

    @property
    def _margin(self) -> np.ndarray | float:
        return MARGIN * (self.maximum - self.minimum) if self.rule == "widen" else 0.0

    @cached_property
    def low(self) -> np.ndarray:
        """Lower edge of the first bin, (neurons) float64."""
        if self.rule == "scale":
            return np.asarray(self.minimum * VDNA_SCALE)
        return np.asarray(self.minimum - self._margin)

    @cached_property
    def high(self) -> np.ndarray:
        """Upper edge of the last bin, (neurons) float64."""
        if self.rule == "scale":
            return np.asarray(self.maximum * VDNA_SCALE)
        return np.asarray(self.maximum + self._margin)

    @cached_property
    def centre(self) -> np.ndarray:
        """Middle of the axis, (neurons) float64."""
        return np.asarray((self.low + self.high) / 2)

    @cached_property
    def half_width(self) -> np.ndarray:
        """Half the length of the axis, (neurons) float64, plus 1e-8 as in the vdna library: a neuron whose activation
        never varies has an axis too."""
        return np.asarray((self.high - self.low) / 2 + 1e-8)

    @cached_property
    def id(self) -> str:
        """Content hash over layers and edges, 16 hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(list(self.layers.items())).encode())
        for edges in (self.low, self.high):
            digest.update(np.ascontiguousarray(edges, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    def to_json(self) -> str:
        """The text of a ranges file: the vdna library's keys `mins_per_neuron` and `maxs_per_neuron`, and `rule`."""
        return json.dumps(
            {
                "mins_per_neuron": _per_neuron(self.layers, self.minimum),
                "maxs_per_neuron": _per_neuron(self.layers, self.maximum),
                "rule": self.rule,
            }
        )

    def to_vdna_json(self) -> str:
        """The text of a ranges file that the vdna library reads as the same axes: bounds divided by `VDNA_SCALE`, which
        it multiplies by. The exact edges are stored beside them."""
        return json.dumps(
            {
                "mins_per_neuron": _per_neuron(self.layers, self.low / VDNA_SCALE),
                "maxs_per_neuron": _per_neuron(self.layers, self.high / VDNA_SCALE),
                "low_edges": self.low.tolist(),
                "high_edges": self.high.tolist(),
            }
        )

    to_seed_json = to_vdna_json
    """Former name of `to_vdna_json`."""

    @classmethod
    def from_json(cls, text: str) -> HistogramAxes:
        """Axes from the text of a ranges file. A file without `rule` is the vdna library's: its rule `scale` applies.

        Neurons are taken in file order: their keys are decimal strings, and sorting these as text would permute the
        neurons. Raises `ValueError` if `text` is not a ranges file.
        """
        try:
            if len(text) > MAX_JSON:
                raise ValueError(f"it has {len(text)} characters")
            content: dict[str, Any] = json.loads(text)
            minima, maxima = content["mins_per_neuron"], content["maxs_per_neuron"]
            names = {layer: list(neurons) for layer, neurons in minima.items()}
            if not names or not all(names.values()):
                raise ValueError("there are no neurons")
            if names != {layer: list(neurons) for layer, neurons in maxima.items()}:
                raise ValueError("minima and maxima disagree about the neurons")
            low, high = (
                np.array([value for neurons in side.values() for value in neurons.values()], dtype=np.float64)
                for side in (minima, maxima)
            )
            rule = content.get("rule", "scale")
            if "low_edges" in content:
                low, high = (np.array(content[f"{side}_edges"], dtype=np.float64) for side in ("low", "high"))
                rule = "exact"
            if not (np.abs([low, high]) <= np.finfo(np.float32).max).all():
                raise ValueError("activations are finite float32 numbers")
            return cls({layer: len(neurons) for layer, neurons in names.items()}, low, high, rule)
        except (KeyError, AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"not a ranges file (mins_per_neuron, maxs_per_neuron): {error}") from None


def _per_neuron(layers: Mapping[str, int], values: np.ndarray) -> dict[str, dict[str, float]]:
    flat = iter(values.tolist())
    return {layer: {str(neuron): next(flat) for neuron in range(count)} for layer, count in layers.items()}


Ranges = HistogramAxes
"""Former name of `HistogramAxes`."""
