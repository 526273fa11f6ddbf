"""Two VDNAs as a picture: how far apart they are in each layer, the neurons that differ most, and how these differ.

of_comparison(compare(v, w, ("faces", "digits")))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distributions.plots import paper
from distributions.plots.subjects import ComparisonSubject, NeuronSubject
from distributions.plots.views import edges

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.gridspec import SubplotSpec

RANKED = 10
OVERLAID = 3
COLUMNS = 60
"""Columns of an axis; bins are put together to about so many of what is shown."""
LONGEST, BAR, FAINT = "#2f4358", "#8498ae", "#ccd6e0"
NAMES = {"emd": "EMD", "nfd": "NFD", "fd": "FD"}
SHORT = {"emd": "bins", "nfd": "activation²", "fd": "activation²"}


def of_comparison(comparison: ComparisonSubject) -> Figure:
    """Bars by layer for every metric; below them the neurons that differ most."""
    layers = len(comparison.layer_names)
    upper = float(np.clip(0.17 * layers, 0.5, 6.5)) + 0.85
    lower = 2.75 if comparison.neurons else 0.0
    a, b = comparison.names
    title = [(a, paper.FIRST), ("and", paper.MUTED), (b, paper.SECOND)]  # at once the key to the colours
    overall = " · ".join(f"{NAMES[m]} {paper.figure_number(v)} {SHORT[m]}" for m, v in comparison.overall.items())
    images = f"{comparison.v.images:,} and {comparison.w.images:,} images"
    below = f"{overall} · {images} · {comparison.v.spec.extractor}"
    figure = paper.sheet(9.6, paper.BAND + upper + lower, title, below)
    rows = figure.add_gridspec(2 if lower else 1, 1, height_ratios=[upper, lower] if lower else None)
    _by_layer(figure, comparison, rows[0, 0], upper - 0.85)
    if lower:
        most = comparison.most(RANKED)
        columns = rows[1, 0].subgridspec(1, 1 + OVERLAID, width_ratios=[1.25] + [1] * OVERLAID)
        _ranked(figure.add_subplot(columns[0, 0]), comparison, most)
        for place, neuron in enumerate(most[:OVERLAID]):
            axes = paper.quiet(figure.add_subplot(columns[0, place + 1]), "bottom")
            apart = f"{NAMES[comparison.by]} {paper.figure_number(neuron.distance)} {SHORT[comparison.by]}"
            paper.head(axes, f"{paper.shorten(neuron.layer, 18)} · {neuron.neuron}", apart, 26)
            _overlay(axes, comparison, neuron)
    return figure


def _by_layer(figure: Figure | SubFigure, comparison: ComparisonSubject, place: SubplotSpec, height: float) -> None:
    """A panel for each metric, a bar for each layer in network order; the longest is darker."""
    columns = place.subgridspec(1, len(comparison.metrics))
    names = list(comparison.layer_names)
    each = max(1, int(np.ceil(0.115 * len(names) / height)))  # of very many layers, not all have a name
    for number, metric in enumerate(comparison.metrics):
        axes = paper.quiet(figure.add_subplot(columns[0, number]), "left")
        values = np.array([comparison.layers[metric][name] for name in names])
        shown = np.nan_to_num(values)
        colors = [LONGEST if value == shown.max() > 0 else BAR for value in shown]
        axes.barh(np.arange(len(names)), shown, 0.72, color=colors)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, shown.max() * 1.04 or 1)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(True, axis="x", color=paper.SOFT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        labels = [paper.shorten(name, 26) for name in names[::each]] if number == 0 else []
        axes.set_yticks(range(0, len(names), each) if labels else [], labels, color=paper.INK, **paper.letters(7))
        means = "" if metric == "fd" else ", mean of neurons"
        paper.head(axes, f"{NAMES[metric]} by layer", f"{SHORT[metric]}{means}")


def _ranked(axes: Axes, comparison: ComparisonSubject, most: Sequence[NeuronSubject]) -> None:
    """The neurons that differ most, the first on top."""
    paper.quiet(axes)
    values = [0.0 if np.isnan(neuron.distance) else neuron.distance for neuron in most]
    axes.barh(range(len(most)), values, 0.62, color=[BAR] * OVERLAID + [FAINT] * (len(most) - OVERLAID))
    axes.set_ylim(max(len(most), 4) - 0.4, -0.6)
    axes.set_xlim(0, (max(values) or 1) * 1.3)
    for place, (neuron, value) in enumerate(zip(most, values, strict=True)):
        text = paper.figure_number(neuron.distance)
        paper.write(axes, value + max(values) * 0.03, place, text, 7, color=paper.MUTED, va="center")
    names = [f"{paper.shorten(neuron.layer, 20)} · {neuron.neuron}" for neuron in most]
    axes.set_yticks(range(len(most)), names, color=paper.INK, **paper.letters(7))
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    paper.head(axes, "Neurons that differ most", f"{NAMES[comparison.by]}, {SHORT[comparison.by]}")


def _overlay(axes: Axes, comparison: ComparisonSubject, neuron: NeuronSubject) -> None:
    """Both distributions of a neuron on its axis."""
    axes.set_yticks([])
    axes.set_xlabel("activation", color=paper.MUTED, **paper.letters(7.5))
    if "emd" in comparison.metrics:
        _histograms(axes, comparison, neuron)
    else:
        _normals(axes, comparison, neuron)
    axes.set_ylim(0)
    axes.locator_params(axis="x", nbins=4)


def _histograms(axes: Axes, comparison: ComparisonSubject, neuron: NeuronSubject) -> None:
    """Shares of activations, bins put together, over that part of the axis where there are any."""
    low, high = (float(ends[neuron.neuron]) for ends in edges(comparison.v, neuron.layer))
    rows = [view.histogram(neuron.layer)[neuron.neuron].astype(np.float64) for view in (comparison.v, comparison.w)]
    shares = np.array([row / max(row.sum(), 1) for row in rows])
    bins = shares.shape[1]
    occupied = np.flatnonzero((shares > 1e-3 / COLUMNS).any(axis=0))
    first, last = (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, bins)
    each = max(1, -(-(last - first) // COLUMNS))
    starts = np.arange(first, last, each)
    at = low + (high - low) * np.minimum(np.append(starts, starts[-1] + each), bins) / bins
    columns = np.add.reduceat(shares, starts, axis=1)
    for values, color in zip(columns, (paper.FIRST, paper.SECOND), strict=True):
        axes.stairs(values, at, fill=True, color=color, alpha=0.28)
        axes.stairs(values, at, color=color, linewidth=1.2)
    axes.set_xlim(at[0], at[-1])


def _normals(axes: Axes, comparison: ComparisonSubject, neuron: NeuronSubject) -> None:
    """Normal curves of the means and variances."""
    moments = [view.gaussian(neuron.layer) for view in (comparison.v, comparison.w)]
    means = np.nan_to_num([float(each.mean[neuron.neuron]) for each in moments])
    deviations = np.sqrt(np.nan_to_num([float(each.variance[neuron.neuron]) for each in moments]))
    least = max(deviations.max(), abs(means[1] - means[0]), 1e-6) / 50  # what never varies is a narrow peak
    deviations = np.maximum(deviations, least)
    at = np.linspace((means - 3.5 * deviations).min(), (means + 3.5 * deviations).max(), 400)
    for mean, deviation, color in zip(means, deviations, (paper.FIRST, paper.SECOND), strict=True):
        curve = np.exp(-(((at - mean) / deviation) ** 2) / 2) / deviation
        axes.fill_between(at, curve, color=color, alpha=0.28, linewidth=0)
        axes.plot(at, curve, color=color, linewidth=1.2)
    axes.set_xlim(at[0], at[-1])
