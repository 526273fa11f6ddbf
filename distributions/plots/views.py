"""A picture of a VDNA: the distribution of every neuron's activations, in a few layers.

of_view(vdna)                             # six layers, evenly spaced
of_view(vdna, ["blocks.6.0"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distributions.plots import paper
from distributions.plots.subjects import VDNASubject
from distributions.spec import layer_slices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_LAYERS = 6
"""Number of layers shown by default. Of a stored VDNA, only these are read."""
COLUMNS = 100
ROWS = 90
PALE = ("#ffffff", "#d9e6f4", "#93b9e0", "#3f7fc4", "#17457f", "#0b2447")
"""Colours from never to always, of evenly decreasing lightness."""


def of_view(view: VDNASubject, layers: Sequence[str] | None = None) -> Figure:
    """A figure with a panel for each layer: activations across, and neurons in the order of their means."""
    chosen = spaced_layers(view) if layers is None else list(layers)
    if not chosen:
        raise ValueError("layers=[]: name at least one")
    for layer in chosen:
        view.part(layer)
    across = min(len(chosen), 3 if len(chosen) not in (4, 7, 8) else 4)
    down = -(-len(chosen) // across)
    below = f"{view.images:,} images · {view.spec.extractor} · "
    below += f"{len(chosen)} of {len(view.layers)} layers" if len(chosen) < len(view.layers) else "all layers"
    width, title = 9.6 if across > 1 else 6.6, [(view.title, paper.INK)]
    figure = paper.sheet(width, paper.BAND + 2.45 * down, title, f"{below} · {_meaning(view)}")
    for place, layer in enumerate(chosen):
        axes = paper.quiet(figure.add_subplot(down, across, place + 1), "bottom")
        paper.head(axes, layer, f"{view.layers[layer]:,} neuron{'s' * (view.layers[layer] != 1)}")
        if view.has("histogram"):
            _heat(axes, view, layer)
        else:
            _bands(axes, view, layer)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=5)
        if place >= len(chosen) - across:
            axes.set_xlabel("activation", color=paper.MUTED, **paper.letters(7.5))
        if place % across == 0:
            axes.set_ylabel("neurons, by their means", color=paper.MUTED, **paper.letters(7.5))
    return figure


def spaced_layers(view: VDNASubject, most: int = SHOWN_LAYERS) -> list[str]:
    """At most `most` layers, evenly spaced over a network, including the first and the last."""
    names = list(view.layers)
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))]


def edges(view: VDNASubject, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a layer's histogram axes, (neurons) each."""
    axes, part = view.spec.ranges, layer_slices(view.spec.layers)[layer]
    assert axes is not None  # Spec refuses histograms without ranges
    return (axes.centre - axes.half_width)[part], (axes.centre + axes.half_width)[part]


def _meaning(view: VDNASubject) -> str:
    if view.has("histogram"):
        return "dark: most often, orange: mean"
    if view.has("gaussian") or view.has("layer-gaussian"):
        return "means, and a standard deviation on each side"
    return "from the smallest to the largest activation"


def _heat(axes: Axes, view: VDNASubject, layer: str) -> None:
    """Draw the histograms of a layer's neurons, one per row, on a common axis."""
    from matplotlib.colors import LinearSegmentedColormap

    counts = view.histogram(layer).astype(np.float64)
    low, high = edges(view, layer)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    bins = shares.shape[1]
    means = low + (high - low) * (shares @ (np.arange(bins) + 0.5)) / bins
    upto = np.concatenate([np.zeros((len(shares), 1)), np.cumsum(shares, axis=1)], axis=1)
    left, right = _bulk(upto, low, high)
    grid = np.linspace(left, right, COLUMNS + 1)
    at = np.clip((grid - low[:, None]) / (high - low)[:, None] * bins, 0, bins)
    whole = np.minimum(at.astype(np.int64), bins - 1)
    left_shares, right_shares = (np.take_along_axis(upto, whole + step, axis=1) for step in (0, 1))
    columns = np.diff(left_shares + (at - whole) * (right_shares - left_shares), axis=1)
    columns /= np.maximum(columns.max(axis=1, keepdims=True), 1e-12)
    order = np.argsort(means, kind="stable")
    starts = np.linspace(0, len(order), min(len(order), ROWS), endpoint=False).astype(int)
    sizes = np.diff([*starts, len(order)])
    image = np.add.reduceat(columns[order], starts, axis=0) / sizes[:, None]
    tones = LinearSegmentedColormap.from_list("pale", PALE, 32)
    extent = (left, right, 0, len(order))
    drawn = axes.imshow(np.sqrt(image), tones, aspect="auto", origin="lower", extent=extent, interpolation="nearest")
    drawn.set_clim(0, 1)
    _line(axes, means[order], "#e07b28")
    axes.set_xlim(left, right)
    axes.set_ylim(0, len(order))


def _bulk(upto: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """The interval in which most activations of most neurons lie. `upto` has cumulative shares, (neurons, bins + 1)."""
    bins = upto.shape[1] - 1
    first = low + (high - low) * (upto < 0.005).sum(axis=1).clip(1, bins) / bins - (high - low) / bins
    last = low + (high - low) * (upto < 0.995).sum(axis=1).clip(1, bins) / bins
    return _apart(float(np.percentile(first, 1)), float(np.percentile(last, 99)))


def _apart(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis from `low` to `high`, with a margin, so that they differ even if `low` equals `high`."""
    low, high = (value if np.isfinite(value) else 0.0 for value in (low, high))
    more = 0.02 * (high - low) or max(abs(low), 1.0) * 0.1
    return low - more, high + more


def _bands(axes: Axes, view: VDNASubject, layer: str) -> None:
    """Draw a mean and a band around it for each neuron, for a VDNA without histograms."""
    if view.has("gaussian") or view.has("layer-gaussian"):
        middle, variance = view.gaussian(layer)
        below, above = middle - np.sqrt(variance), middle + np.sqrt(variance)
    else:
        below, above = (values.astype(np.float64) for values in view.ranges(layer))
        below, above = (np.where(np.isfinite(values), values, np.nan) for values in (below, above))
        middle = (below + above) / 2
    order = np.argsort(middle, kind="stable")
    height = np.arange(len(order) + 1)
    axes.stairs(above[order], height, baseline=below[order], orientation="horizontal", fill=True, color="#b0cbe8")
    _line(axes, middle[order], paper.FIRST)
    finite = np.concatenate([below, above])
    finite = finite[np.isfinite(finite)]
    axes.set_xlim(*_apart(finite.min(), finite.max()) if len(finite) else (-1, 1))
    axes.set_ylim(0, len(order))


def _line(axes: Axes, values: np.ndarray, color: str) -> None:
    """Draw a value for each neuron as a vertical line over the height of the neuron's row."""
    height = np.arange(len(values) + 1)
    axes.plot(np.repeat(values, 2), np.repeat(height, 2)[1:-1], color=color, linewidth=1.2)
