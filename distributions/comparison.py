"""Two VDNAs side by side: how far apart they are, and in which layers and neurons most.

c = compare(v, w)
c.overall                                 # {"emd": 12.3, "nfd": 0.4, "fd": 56.7}
c.layers                                  # {"emd": {layer: mean over its neurons}, "nfd": …, "fd": …}
c.neurons["emd"]                          # {layer: (neurons) float64}
c.most(5)                                 # the five neurons that differ most: [(layer, neuron, distance), …]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distributions.distances import PerNeuron, check_comparable, emd, fd, nfd
from distributions.errors import IncompatibleError
from distributions.view import View

KINDS = {"emd": "histogram", "nfd": "gaussian", "fd": "layer-gaussian"}
"""The kind of distribution that each distance is computed from; NFD also from `layer-gaussian`."""


@dataclass(frozen=True)
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
        found: dict[str, PerNeuron] = {}
        for metric, distance in (("emd", emd), ("nfd", nfd)):
            if metric in self.metrics:
                each = (distance(self.v, self.w, layer=layer, per_neuron=True) for layer in self.layer_names)
                found[metric] = {layer: values for of in each for layer, values in of.items()}
        return found

    @cached_property
    def layers(self) -> dict[str, dict[str, float]]:
        """`{metric: {layer: distance}}`: means over the layer's neurons, or FD of the layer."""
        found = {m: {layer: float(each.mean()) for layer, each in of.items()} for m, of in self.neurons.items()}
        if "fd" in self.metrics:
            found["fd"] = {layer: fd(self.v, self.w, layer=layer) for layer in self.layer_names}
        return found

    @cached_property
    def overall(self) -> dict[str, float]:
        """Over all these layers: EMD and NFD as means over neurons, FD over layers."""
        found = {m: float(np.concatenate(list(of.values())).mean()) for m, of in self.neurons.items()}
        if "fd" in self.metrics:
            found["fd"] = float(np.mean(list(self.layers["fd"].values())))
        return found

    @property
    def metric(self) -> str:
        """The first of `metrics`."""
        return self.metrics[0]

    def most(self, k: int = 10, metric: str | None = None) -> list[tuple[str, int, float]]:
        """The neurons that differ most: layer, neuron in its layer, distance; by EMD, or NFD where there is none."""
        per_layer = self.neurons.get(metric or self.metric)
        if per_layer is None:
            raise IncompatibleError(f"no distance of single neurons by {metric or self.metric}")
        flat = [
            (float(value), layer, neuron) for layer, of in per_layer.items() for neuron, value in enumerate(of.tolist())
        ]
        return [(layer, neuron, value) for value, layer, neuron in sorted(flat, key=lambda f: (-f[0], f[1], f[2]))[:k]]

    def save(self, path: str) -> None:
        """Write a picture of it: path.svg, path.png."""
        raise NotImplementedError


def compare(
    v: View,
    w: View,
    names: tuple[str, str] = ("a", "b"),
    layers: Sequence[str] | None = None,
    metrics: Sequence[str] = ("emd", "nfd", "fd"),
) -> Comparison:
    """Compare two VDNAs in some layers, or in all, by those of the metrics that are defined between them. Raises
    `IncompatibleError`, which says why, if none is, and `ValueError` for a layer that is none."""
    chosen = tuple(v.layers if layers is None else layers)
    for layer in chosen:
        v.part(layer)
    if not chosen:
        raise ValueError("layers=[]: name at least one")
    found, reasons = [], []
    for metric in metrics:
        kind = KINDS[metric]
        if not all(view.has(kind) or (metric == "nfd" and view.has("layer-gaussian")) for view in (v, w)):
            continue
        try:
            check_comparable(v.spec, w.spec, None if layers is None else chosen[0], kind)
            found.append(metric)
        except IncompatibleError as error:
            reasons.append(str(error))
    if not found:
        there = " and ".join(", ".join(view.spec.distributions) for view in (v, w))
        raise IncompatibleError(reasons[0] if reasons else f"these VDNAs have no distribution in common: {there}")
    return Comparison(v, w, names, chosen, tuple(found))
