"""Distances between two VDNAs: `emd`, `nfd`, `fd`.

    emd(v, w)                                 # mean over all neurons, in bins
    emd(v, w, layer="block_0")                # mean over a layer
    emd(v, w, layer="block_0", neuron=42)     # one neuron
    emd(v, w, per_neuron=True)                # {layer: (neurons) float64}

EMD compares histograms, NFD the Gaussians of single neurons, and FD the multivariate Gaussians of layers.
All are symmetric, and zero between a VDNA and itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from distributions.errors import IncompatibleError
from distributions.kernels import cumulative_shares, linear_algebra, row_emd
from distributions.moments import LayerMoments, Moments
from distributions.spec import DECIDING, UNSTATED, Spec, difference_between, has_histogram
from distributions.view import View

if TYPE_CHECKING:
    import torch

PerNeuron = dict[str, np.ndarray]

UNITS = {"emd": "bins", "nfd": "squared activation", "fd": "squared activation"}
"""The distances and their units."""


@overload
def emd(
    v: View, w: View, *, layer: str | None = None, neuron: int | None = None, per_neuron: Literal[False] = False
) -> float: ...
@overload
def emd(v: View, w: View, *, layer: str | None = None, per_neuron: Literal[True]) -> PerNeuron: ...
def emd(
    v: View, w: View, *, layer: str | None = None, neuron: int | None = None, per_neuron: bool = False
) -> float | PerNeuron:
    """Earth mover's distance between the neurons' histograms, in bins, averaged over the neurons selected.

    Between two normalised histograms p and q it is the sum over bins of |cumsum(p - q)| (Rubner et al.
    2000, one dimension). Multiplied by 2 / bins, it is a fraction of the half-range. Raises `IncompatibleError`
    unless both VDNAs have the same network, bins and activation ranges.
    """
    check_comparable(v.spec, w.spec, layer, "histogram")

    def rows(name: str) -> np.ndarray:
        return row_emd(cdf(v.histogram(name)), cdf(w.histogram(name)))

    return _select(v, rows, layer, neuron, per_neuron)


@overload
def nfd(
    v: View, w: View, *, layer: str | None = None, neuron: int | None = None, per_neuron: Literal[False] = False
) -> float: ...
@overload
def nfd(v: View, w: View, *, layer: str | None = None, per_neuron: Literal[True]) -> PerNeuron: ...
def nfd(
    v: View, w: View, *, layer: str | None = None, neuron: int | None = None, per_neuron: bool = False
) -> float | PerNeuron:
    """Fréchet distance between the neurons' Gaussians, averaged over the neurons selected.

    (m1 - m2)² + v1 + v2 - 2 sqrt(v1 v2) (Dowson and Landau 1982, one dimension), in squared units of
    the activations. Uses `gaussian`, or the diagonal of `layer-gaussian`.
    """
    check_comparable(v.spec, w.spec, layer, "gaussian")

    def rows(name: str) -> np.ndarray:
        return frechet_rows(v.gaussian(name), w.gaussian(name))

    return _select(v, rows, layer, neuron, per_neuron)


@overload
def fd(
    v: View, w: View, *, layer: str | None = None, neuron: int | None = None, per_neuron: Literal[False] = False
) -> float: ...
@overload
def fd(v: View, w: View, *, layer: str | None = None, per_neuron: Literal[True]) -> PerNeuron: ...
def fd(
    v: View, w: View, *, layer: str | None = None, neuron: int | None = None, per_neuron: bool = False
) -> float | PerNeuron:
    """Fréchet distance between the layers' multivariate Gaussians, averaged over layers if no layer is given.

    |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ (Dowson and Landau 1982). With Inception's last block
    it is FID (Heusel et al. 2017). With `neuron` or `per_neuron`, it is the one-dimensional distance
    between the marginals of single neurons.
    """
    check_comparable(v.spec, w.spec, layer, "layer-gaussian")
    if per_neuron or neuron is not None:

        def rows(name: str) -> np.ndarray:
            return frechet_rows(marginals(v.layer_gaussian(name)), marginals(w.layer_gaussian(name)))

        return _select(v, rows, layer, neuron, per_neuron)
    names = [layer] if layer is not None else list(v.layers)

    def of_layer(name: str) -> float:
        return frechet(Factor.of(v.layer_gaussian(name)), Factor.of(w.layer_gaussian(name)))

    return float(np.mean(linear_algebra().one_thread_each(of_layer, names)))


def cdf(histogram: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """Cumulative shares of counts: (neurons, bins) uint64 to float64, each row ends in 1. Fills `shares`, if given."""
    cumulative = cumulative_shares(histogram, shares)
    if np.isnan(cumulative[:, -1]).any():
        raise IncompatibleError("a neuron's histogram is empty: the VDNA counted no image, or only NaN")
    return cumulative


def frechet_rows(a: Moments, b: Moments) -> np.ndarray:
    """One-dimensional Fréchet distance of each neuron, (neurons) float64."""
    for moments in (a, b):
        _check_any(moments)
    # (√v1 − √v2)² is v1 + v2 − 2√(v1·v2) without the cancellation, so it is never negative.
    return (a.mean - b.mean) ** 2 + (np.sqrt(a.variance) - np.sqrt(b.variance)) ** 2  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Factor:
    """A factorised Gaussian of a layer, made once per dataset and used for all its pairs; float64.

    `root` (neurons, rank) is a factor of the covariance: the covariance is root rootᵀ. It is a tensor, perhaps on a
    GPU, or an array without torch. `mean` has shape (neurons), and `trace` is the trace of the covariance.
    """

    mean: np.ndarray
    root: Any
    trace: float

    @classmethod
    def of(cls, moments: LayerMoments, device: torch.device | str = "cpu") -> Factor:
        _check_any(moments)
        root = linear_algebra().covariance_factor(moments.covariance, device)
        return cls(moments.mean, root, float(np.trace(moments.covariance)))


def frechet(a: Factor, b: Factor) -> float:
    """Multivariate Fréchet distance. Never negative, exactly 0 between equal factors, and the same bits if `a` and `b`
    are swapped.

    The bits may depend on the number of threads. Call it through `kernels.factors.one_thread_each` to avoid this.
    """
    if a.mean.shape != b.mean.shape:
        raise IncompatibleError("the layers have different numbers of neurons")
    if np.array_equal(a.mean, b.mean) and a.root.shape == b.root.shape and bool((a.root == b.root).all()):
        return 0.0
    first, second = sorted((a, b), key=lambda f: (f.root.shape[1], f.trace, f.mean.tobytes()))
    if np.array_equal(a.mean, b.mean) and a.trace == b.trace:  # rare: only the roots differ
        first, second = sorted((a, b), key=lambda f: bytes(np.asarray(f.root.tolist())))
    difference = a.mean - b.mean
    shared: float = linear_algebra().root_trace(first.root, second.root)
    return max(float(difference @ difference) + (first.trace + second.trace) - 2 * shared, 0.0)


def _check_any(moments: Moments | LayerMoments) -> None:
    if np.isnan(moments.mean).any():
        raise IncompatibleError("a neuron has no mean: the VDNA counted no image, or only NaN")


def check_comparable(a: Spec, b: Spec, layer: str | None, kind: str) -> None:
    """Raise `IncompatibleError`, naming what differs, unless VDNAs of the two specs measure the same quantities with a
    kind of distribution, in one layer or in all layers. A field that a file of another program does not state equals
    any value."""
    words = [(getattr(a, name), getattr(b, name)) for name in ("extractor", *DECIDING)]
    in_part = any(x != y for x, y in words)
    same_layers = list(a.layers.items()) == list(b.layers.items()) or (
        in_part and layer is not None and layer in a.layers and a.layers[layer] == b.layers.get(layer)
    )
    if not (same_layers and all(_agree(x, y) for x, y in words) and _samples(a, kind) == _samples(b, kind)):
        raise IncompatibleError(f"these VDNAs cannot be compared ({difference_between(a, b)})")
    if kind != "histogram":
        return
    for spec in (a, b):
        if not spec.has("histogram"):
            raise IncompatibleError(f"EMD needs histograms, found {', '.join(spec.distributions)}")
    if _axes(a) != _axes(b):
        raise IncompatibleError(f"these histograms cannot be compared ({difference_between(a, b)})")


def _axes(spec: Spec) -> tuple[object, ...]:
    """The bins and the axes of a spec's histograms."""
    names = [name for name in spec.distributions if has_histogram([name])]
    return (*names, spec.ranges.id if spec.ranges else "")


def _agree(x: str, y: str) -> bool:
    return UNSTATED in (x, y) or x == y or fnmatchcase(x, y) or fnmatchcase(y, x)


def _samples(spec: Spec, kind: str) -> str:
    """The samples of a kind of distribution. Without `gaussian`, NFD uses `layer-gaussian`."""
    if kind == "gaussian" and not spec.has(kind):
        kind = "layer-gaussian"
    return spec.samples_of(kind)


def marginals(moments: LayerMoments) -> Moments:
    """Mean and variance of each neuron of a layer."""
    return Moments(moments.mean, np.diagonal(moments.covariance))


def _select(
    v: View, rows: Callable[[str], np.ndarray], layer: str | None, neuron: int | None, per_neuron: bool
) -> float | PerNeuron:
    """Apply a per-neuron distance to the neurons selected by three arguments, which are those of the vdna library."""
    if neuron is not None:
        if layer is None:
            raise ValueError("a neuron is named within its layer: give layer= as well")
        if per_neuron:
            raise ValueError("give either neuron= or per_neuron=True, not both")
        v.part(layer)
        if not 0 <= neuron < v.layers[layer]:
            raise IndexError(f"layer {layer!r} has neurons 0 to {v.layers[layer] - 1}, not {neuron}")
        return float(rows(layer)[neuron])
    names = [layer] if layer is not None else list(v.layers)
    values = {name: rows(name) for name in names}
    return values if per_neuron else float(np.concatenate(list(values.values())).mean())
