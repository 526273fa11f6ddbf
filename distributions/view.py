"""What can be read of a VDNA, wherever its arrays lie: in memory, on a disk, or behind a URL. No torch is needed.

    view.layers, view.images                  # {layer: neurons} in network order; images counted
    view.histogram("block_0")                 # (neurons, bins) uint64
    emd(view, other)                          # distances.py works on views
    view.save("faces.png")                    # a picture; Jupyter shows it by itself

A view of a stored VDNA reads just the rows that are asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from distributions import plots
from distributions.errors import IncompatibleError, UnknownLayerError
from distributions.moments import Extremes, LayerMoments, Moments, layer_moments, neuron_moments
from distributions.plots import cards
from distributions.spec import Spec, layer_slices


class View(ABC):
    """A VDNA to be read. `spec` says what was measured, `images` is how many images it counted."""

    spec: Spec

    @property
    @abstractmethod
    def images(self) -> int:
        """Images counted, by the ledger."""

    @abstractmethod
    def rows(self, array: str, part: slice) -> np.ndarray:
        """Some neurons' rows of one of its arrays, by the name it has on disk (`spec.ARRAYS`)."""

    @property
    def layers(self) -> dict[str, int]:
        """`{layer: neurons}` in network order."""
        return dict(self.spec.layers)

    def part(self, layer: str | None) -> slice:
        """The neurons of a layer on the neuron axis, or all of them."""
        slices = layer_slices(self.spec.layers)
        if layer is None:
            return slice(0, sum(self.spec.layers.values()))
        if layer not in slices:
            raise UnknownLayerError(f"unknown layer {layer!r}; layers: {', '.join(slices)}")
        return slices[layer]

    def has(self, kind: str) -> bool:
        """Whether it has `histogram`, `gaussian`, `layer-gaussian` or `activation-ranges`."""
        return self.spec.has(kind)

    def require(self, kind: str) -> None:
        """Raise `IncompatibleError` if the VDNA was computed without that kind of distribution."""
        if not self.has(kind):
            raise IncompatibleError(
                f"this VDNA has no {kind}: it was computed with {', '.join(self.spec.distributions)}"
            )

    def histogram(self, layer: str | None = None) -> np.ndarray:
        """Counts (neurons, bins) uint64 of a layer, or of all layers in network order."""
        self.require("histogram")
        return self.rows("histogram", self.part(layer))

    def gaussian(self, layer: str | None = None) -> Moments:
        """Mean and variance per neuron; from the layer Gaussians' diagonals if only those were computed."""
        part = self.part(layer)
        if self.has("gaussian"):
            count, mean, m2 = (self.rows(name, part) for name in ("count", "mean", "m2"))
            return neuron_moments(count, mean, m2)
        of_layers = [self.layer_gaussian(name) for name in ([layer] if layer is not None else self.layers)]
        variances = [np.diagonal(moments.covariance) for moments in of_layers]
        return Moments(np.concatenate([moments.mean for moments in of_layers]), np.concatenate(variances))

    @overload
    def layer_gaussian(self, layer: str) -> LayerMoments: ...
    @overload
    def layer_gaussian(self, layer: None = None) -> dict[str, LayerMoments]: ...
    def layer_gaussian(self, layer: str | None = None) -> LayerMoments | dict[str, LayerMoments]:
        """Mean vector and covariance matrix of a layer, or of each: `{layer: LayerMoments}`."""
        self.require("layer-gaussian")
        if layer is None:
            return {name: self.layer_gaussian(name) for name in self.layers}
        part = self.part(layer)
        count, mean, comoment = (self.rows(name, part) for name in ("layer_count", "layer_mean", "comoment"))
        return layer_moments(count, mean, comoment)

    def ranges(self, layer: str | None = None) -> Extremes:
        """Observed minimum and maximum per neuron."""
        self.require("activation-ranges")
        part = self.part(layer)
        return Extremes(self.rows("min", part), self.rows("max", part))

    @property
    def title(self) -> str:
        """What it is called above a picture of it."""
        return f"VDNA by {self.spec.extractor}"

    def facts(self) -> dict[str, str]:
        """What is worth knowing of it, in words."""
        return {
            "images": f"{self.images:,}",
            "extractor": self.spec.extractor,
            "layers": f"{len(self.layers):,}, of {sum(self.layers.values()):,} neurons",
            "distributions": ", ".join(self.spec.distributions),
        }

    def save(self, path: str | Path, layers: Sequence[str] | None = None) -> None:
        """Write a picture of it, .png, .svg or .pdf: of the layers named, or of six, evenly spaced."""
        plots.check_ending(path)
        plots.save(plots.of_view(self, layers), path)

    def __repr__(self) -> str:
        return f"<{self.title}: {self.images} images, {len(self.layers)} layers>"

    def _repr_html_(self) -> str:
        return cards.card(self.title, self.facts(), plots.of_view(self))
