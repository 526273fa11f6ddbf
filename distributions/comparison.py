"""Two VDNAs side by side: how far apart they are, and in which layers and neurons most.

c = compare(v, w)
c.overall                                 # {"emd": 12.3, "nfd": 0.4, "fd": 56.7}
c.layers                                  # {"emd": {layer: mean over its neurons}, "nfd": …, "fd": …}
c.neurons["emd"]                          # {layer: (neurons) float64}
c.most(5)                                 # the five neurons that differ most: [(layer, neuron, distance), …]
c.save("pair.svg")                        # a picture; Jupyter shows it by itself
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distributions import plots
from distributions.distances import UNITS, PerNeuron, check_comparable, emd, fd, nfd
from distributions.errors import IncompatibleError
from distributions.plots import cards
from distributions.spec import kind_of
from distributions.view import View

KINDS = {"emd": "histogram", "nfd": "gaussian", "fd": "layer-gaussian"}
"""The kind of distribution that each distance is computed from; NFD also from `layer-gaussian`."""


class Neuron(NamedTuple):
    """A neuron of a layer, and how far two VDNAs are apart in it. `pandas.DataFrame(c.most())` is a labelled table."""

    layer: str
    neuron: int
    distance: float


def metrics_of(distributions: Sequence[str]) -> tuple[str, ...]:
    """The distances that VDNAs with these distributions have."""
    kinds = set(map(kind_of, distributions))
    kinds |= {"gaussian"} if "layer-gaussian" in kinds else set()
    return tuple(metric for metric, kind in KINDS.items() if kind in kinds)


@dataclass(frozen=True, repr=False)
class Comparison:
    """The distances between `v` and `w` in some layers, each computed when it is first asked for.

    `metrics` are those that both have: `emd` where there are histograms on one axis, `nfd` and `fd` where there are
    Gaussians. EMD is in bins, the others in squared activations.
    """

    v: View
    w: View
    names: tuple[str, str]
    layer_names: tuple[str, ...]
    metrics: tuple[str, ...]

    @cached_property
    def neurons(self) -> dict[str, PerNeuron]:
        """`{"emd": {layer: (neurons) float64}, "nfd": …}`."""
        distances: dict[str, PerNeuron] = {}
        for metric, distance in (("emd", emd), ("nfd", nfd)):
            if metric in self.metrics:
                each = (distance(self.v, self.w, layer=layer, per_neuron=True) for layer in self.layer_names)
                distances[metric] = {layer: values for of in each for layer, values in of.items()}
        return distances

    @cached_property
    def layers(self) -> dict[str, dict[str, float]]:
        """`{metric: {layer: distance}}`: means over the layer's neurons, or FD of the layer."""
        distances = {m: {layer: float(each.mean()) for layer, each in of.items()} for m, of in self.neurons.items()}
        if "fd" in self.metrics:
            distances["fd"] = {layer: fd(self.v, self.w, layer=layer) for layer in self.layer_names}
        return distances

    @cached_property
    def overall(self) -> dict[str, float]:
        """Over all these layers: EMD and NFD as means over neurons, FD over layers."""
        distances = {m: float(np.concatenate(list(of.values())).mean()) for m, of in self.neurons.items()}
        if "fd" in self.metrics:
            distances["fd"] = float(np.mean(list(self.layers["fd"].values())))
        return distances

    @property
    def metric(self) -> str:
        """The first of `metrics`."""
        return self.metrics[0]

    @property
    def by(self) -> str:
        """The metric that single neurons are ranked by: EMD, or NFD where there is none."""
        return next(iter(self.neurons), self.metric)

    def most(self, k: int = 10, metric: str | None = None) -> list[Neuron]:
        """The neurons that differ most: layer, neuron in its layer, distance; by EMD, or NFD where there is none."""
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        per_layer = self.neurons.get(metric or self.by)
        if per_layer is None:
            raise IncompatibleError(f"no distance of single neurons by {metric or self.by}")
        each = [Neuron(layer, i, float(value)) for layer, of in per_layer.items() for i, value in enumerate(of)]
        # What is not a number comes last: as a key it would leave the others in any order.
        return sorted(each, key=lambda n: (np.isnan(n.distance), -n.distance, n.layer, n.neuron))[:k]

    def save(self, path: str | Path) -> None:
        """Write a picture of it: .png, .svg or .pdf."""
        plots.check_ending(path)
        plots.save(plots.of_comparison(self), path)

    def facts(self, k: int = 3) -> dict[str, str]:
        """How far apart, and where most, in words."""
        of_layers = self.layers[self.metric]
        layers = sorted(of_layers, key=lambda layer: (np.isnan(of_layers[layer]), -of_layers[layer]))[:k]
        facts = {
            "images": f"{self.v.images:,} and {self.w.images:,}",
            "extractor": self.v.spec.extractor,
            "distance": ", ".join(f"{m} {value:.4g} {UNITS[m]}" for m, value in self.overall.items()),
            "layers that differ most": ", ".join(f"{layer} ({of_layers[layer]:.4g})" for layer in layers),
        }
        if self.neurons:
            most = ", ".join(f"{n.layer} · {n.neuron} ({n.distance:.4g})" for n in self.most(k))
            facts["neurons that differ most"] = most
        return facts

    def __repr__(self) -> str:
        facts = "\n".join(f"  {name}: {value}" for name, value in self.facts().items())
        return f"<Comparison of {' and '.join(self.names)}\n{facts}>"

    def _repr_html_(self) -> str:
        return cards.card(" and ".join(self.names), self.facts(), plots.of_comparison(self))


def compare(
    v: View,
    w: View,
    names: tuple[str, str] = ("a", "b"),
    layers: Sequence[str] | None = None,
    metrics: Sequence[str] = ("emd", "nfd", "fd"),
) -> Comparison:
    """Compare two VDNAs in some layers, or in all, by those of the metrics that are defined between them. Raises
    `IncompatibleError`, which says why, if none is, and `ValueError` for a layer that is none."""
    if isinstance(layers, str) or isinstance(metrics, str):
        raise ValueError(f"layers={layers!r}, metrics={metrics!r}: give lists")
    metrics = tuple(dict.fromkeys(metrics))
    if not metrics:
        raise ValueError(f"metrics=[]: name at least one of {', '.join(KINDS)}")
    if unknown := [metric for metric in metrics if metric not in KINDS]:
        raise ValueError(f"metrics={unknown}: allowed are {', '.join(KINDS)}")
    chosen = tuple(v.layers if layers is None else dict.fromkeys(layers))
    for layer in chosen:
        v.part(layer)
    if not chosen:
        raise ValueError("layers=[]: name at least one")
    usable, reasons = [], []
    for metric in metrics:
        kind = KINDS[metric]
        if not all(metric in metrics_of(view.spec.distributions) for view in (v, w)):
            continue
        try:
            check_comparable(v.spec, w.spec, None if layers is None else chosen[0], kind)
            usable.append(metric)
        except IncompatibleError as error:
            reasons.append(str(error))
    if not usable:
        contents = " and ".join(", ".join(view.spec.distributions) for view in (v, w))
        raise IncompatibleError(reasons[0] if reasons else f"these VDNAs have no distribution in common: {contents}")
    return Comparison(v, w, names, chosen, tuple(usable))
