"""Distances between datasets as a picture: those that are alike side by side.

of_matrix(distances, ["faces", "digits"], "EMD", "bins")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distributions.plots import paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRITTEN = 14
"""Up to so many datasets, every distance is written in its cell."""
NOTHING = "#d9d9d9"
RAMP = "YlGnBu_r"
"""Dark where datasets are alike; readable in grey and with any kind of colour vision."""


def of_matrix(values: np.ndarray, names: Sequence[str], metric: str, unit: str, below: str = "") -> Figure:
    """A cell for each pair (dataset, other), datasets in the order of an average-linkage tree. A distance that is NaN
    is left grey."""
    values = np.asarray(values, dtype=np.float64)
    number = len(names)
    if values.shape != (number, number) or not number:
        raise ValueError(f"a matrix of {values.shape} distances between {number} datasets")
    order, tree = clustered(values)
    labels = [paper.shorten(names[i], 34) for i in order]
    cell = float(np.clip(9.0 / number, 0.085, 0.62))
    size = float(np.clip(cell * 55, 5.0, 8.5))
    beside = max(map(len, labels)) * size / 72 * 0.62 + 0.25
    side = max(number * cell, 1.3)
    width = max(side + beside + 1.35, 4.6)
    height = side + beside + 0.55 + paper.BAND
    title = f"{metric} between {number:,} datasets" if number > 1 else f"{metric} of one dataset"
    figure = paper.sheet(width, height, [(title, paper.INK)], below)
    grid = figure.add_gridspec(2, 2, height_ratios=[0.4, side], width_ratios=[side, 0.16], hspace=0.01)
    axes = paper.quiet(figure.add_subplot(grid[1, 0]))
    shown = values[np.ix_(order, order)]
    finite = shown[np.isfinite(shown)]
    top = float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    axes.set_facecolor(NOTHING)
    ends = np.arange(number + 1) - 0.5
    cells = np.ma.masked_invalid(shown)
    drawn = axes.pcolormesh(ends, ends, cells, cmap=RAMP, vmin=0, vmax=top, rasterized=number > 40)
    axes.set_ylim(number - 0.5, -0.5)
    style = paper.letters(size)
    axes.set_xticks(range(number), labels, rotation=90, color=paper.INK, **style)
    axes.set_yticks(range(number), labels, color=paper.INK, **style)
    axes.tick_params(length=0, pad=3)
    if number <= WRITTEN:
        _write(axes, shown, top)
    _tree(figure.add_subplot(grid[0, 0], sharex=axes), tree)
    bar = figure.colorbar(drawn, cax=figure.add_subplot(grid[1, 1]))
    paper.quiet(bar.ax)
    bar.set_label(f"{metric}, {unit}", color=paper.MUTED, **paper.letters(8))
    return figure


def clustered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of the leaves of an average-linkage tree, and the tree as scipy has it. NaN counts as far."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    number = len(values)
    if number < 2:
        return np.arange(number), np.empty((0, 4))
    finite = np.isfinite(values)
    far = float(values[finite].max()) if finite.any() else 1.0
    full = np.where(finite, values, far)
    full = np.maximum((full + full.T) / 2, 0)
    np.fill_diagonal(full, 0)
    tree = linkage(squareform(full, checks=False), "average", optimal_ordering=True)
    return leaves_list(tree), tree


def _write(axes: Axes, shown: np.ndarray, top: float) -> None:
    for row, column in np.ndindex(shown.shape):
        light = not shown[row, column] < 0.45 * top
        color = paper.MUTED if np.isnan(shown[row, column]) else paper.INK if light else "white"
        text = "0" if shown[row, column] == 0 else paper.figure_number(float(shown[row, column]))
        paper.write(axes, column, row, text, 7, color=color, ha="center", va="center")


def _tree(axes: Axes, tree: np.ndarray) -> None:
    """The tree over the columns: pairs are joined at their distance."""
    from matplotlib.collections import LineCollection
    from scipy.cluster.hierarchy import dendrogram

    axes.set_axis_off()
    if not len(tree) or not tree[:, 2].max():
        return
    joints = dendrogram(tree, no_plot=True)
    lines = [
        np.column_stack([(np.array(x) - 5) / 10, y]) for x, y in zip(joints["icoord"], joints["dcoord"], strict=True)
    ]
    axes.add_collection(LineCollection(lines, colors="#9aa5b1", linewidths=0.9))
    axes.set_ylim(0, tree[:, 2].max() * 1.05)
