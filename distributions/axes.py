"""Ranges: the histogram axes of a network's neurons.

`ActivationRanges` observes minima and maxima; `Ranges` is the fixed set of histogram axes, made from them, that
every VDNA of a catalogue shares, so that histograms can be compared. No torch is needed for these:

    observed = ActivationRanges({"block_0": 2})
    observed.update("block_0", torch.tensor([[[0.0, -1.0], [5.0, 1.0]]]))
    axes = Ranges.calibrated(observed)      # [0, 5] and [-1, 1], a tenth of the width wider on each side
    axes.id                                 # content hash: histograms with another id are not comparable
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from distributions.errors import IncompatibleError

if TYPE_CHECKING:
    from distributions.activation_ranges import ActivationRanges

SEED_SCALE = 1.2
"""The seed library multiplies the observed minimum and maximum by this (Ramtoula et al., vdna 0.1.1)."""

MARGIN = 0.1
"""Our own calibration widens a range by this fraction of its width on each side; for a range symmetric
about zero that equals the seed's rule, but it does not shrink a range whose minimum is positive."""

MAX_JSON = 1 << 28
"""Characters of a ranges file; a million neurons have 60 MB."""


@dataclass(frozen=True, eq=False)
class Ranges:
    """One histogram axis per neuron, from observed minima and maxima and the rule that widens them.

    `minimum`, `maximum` are (neurons) float64; `rule` is `"widen"` (ours, by `MARGIN` of the width),
    `"scale"` (the seed's, by `SEED_SCALE`) or `"exact"` (they are the edges already).
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
    def calibrated(cls, observed: ActivationRanges) -> Ranges:
        """Axes from our own calibration pass."""
        low, high = (t.cpu().numpy().astype(np.float64) for t in (observed.low, observed.high))
        return cls(dict(observed.layers), low, high)

    @property
    def _margin(self) -> np.ndarray | float:
        return MARGIN * (self.maximum - self.minimum) if self.rule == "widen" else 0.0

    @cached_property
    def low(self) -> np.ndarray:
        """Lower edge of the first bin, (neurons) float64."""
        if self.rule == "scale":
            return np.asarray(self.minimum * SEED_SCALE)
        return np.asarray(self.minimum - self._margin)

    @cached_property
    def high(self) -> np.ndarray:
        """Upper edge of the last bin, (neurons) float64."""
        if self.rule == "scale":
            return np.asarray(self.maximum * SEED_SCALE)
        return np.asarray(self.maximum + self._margin)

    @cached_property
    def centre(self) -> np.ndarray:
        return np.asarray((self.low + self.high) / 2)

    @cached_property
    def half_width(self) -> np.ndarray:
        """Half the axis, plus the seed's 1e-8 so that a neuron that never varies still has an axis."""
        return np.asarray((self.high - self.low) / 2 + 1e-8)

    @cached_property
    def id(self) -> str:
        """Content hash over layers and edges, 16 hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(list(self.layers.items())).encode())
        for edges in (self.low, self.high):
            digest.update(np.ascontiguousarray(edges, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    def to_json(self) -> str:
        """The seed's ranges file (`mins_per_neuron`, `maxs_per_neuron`) and our `rule` beside it."""
        return json.dumps(
            {
                "mins_per_neuron": _per_neuron(self.layers, self.minimum),
                "maxs_per_neuron": _per_neuron(self.layers, self.maximum),
                "rule": self.rule,
            }
        )

    def to_seed_json(self) -> str:
        """The same axes for the seed, which multiplies what it reads by `SEED_SCALE`; their exact edges beside that."""
        return json.dumps(
            {
                "mins_per_neuron": _per_neuron(self.layers, self.low / SEED_SCALE),
                "maxs_per_neuron": _per_neuron(self.layers, self.high / SEED_SCALE),
                "low_edges": self.low.tolist(),
                "high_edges": self.high.tolist(),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Ranges:
        """Read a ranges file, the seed's (no `rule`: its scaling applies) or ours.

        Neurons are taken in file order: the keys are decimal strings, and sorting them as text would
        permute the neurons. Raises `ValueError` when the file is not a ranges file.
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
