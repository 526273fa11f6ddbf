"""The distances between the datasets of a catalogue, in memory (`Matrix`) and on disk (`StoredMatrix`).

stored.row("emd", "demo_digits")                    # {dataset: distance}, from one or two chunks
matrix = stored.among("emd", layers=["norm"])
matrix.frame                                        # pandas.DataFrame, dataset by other
matrix.save("distances.png")                        # a picture in which similar datasets are neighbours
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from distributions import View, plots
from distributions.bounds import emd_bound, emd_sketch, frechet_bound
from distributions.distances import cdf
from distributions.plots import cards
from distributions.spec import layer_slices
from pipeline.catalogue.sketches import HISTOGRAM, MOMENTS, moments
from pipeline.errors import LayerUserError, UserError
from pipeline.formats.manifests import Manifests
from pipeline.formats.rows import Rows, hashes
from pipeline.storage.folder import AT_ONCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Matrix:
    """Distances between datasets, over all layers or some.

    Attributes:
        array: (dataset, other) float64.
        metric: "emd", "nfd" or "fd".
        unit: The distances' unit.
        extractor: The extractor's name.
        layers: The layers that count.
    """

    array: xr.DataArray
    metric: str
    unit: str
    extractor: str
    layers: tuple[str, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """The distances as a table with a row and a column for each dataset."""
        return pd.DataFrame(self.array.to_numpy(), self.array["dataset"].to_index(), self.array["other"].to_index())

    def save(self, path: str | Path) -> None:
        """Write a picture of the matrix, with datasets that are alike side by side.

        Args:
            path: A file whose name ends in .png, .svg or .pdf.

        Raises:
            ValueError: The name has another ending.
        """
        plots.check_ending(path)
        plots.save(self._figure(), path)

    def _figure(self) -> Figure:
        names = [str(name) for name in self.array["dataset"].to_numpy()]
        over = f"{self.extractor} · {len(self.layers):,} layer{'s' * (len(self.layers) != 1)}"
        return plots.of_matrix(self.array.to_numpy(), names, self.metric.upper(), self.unit, over)

    def __repr__(self) -> str:
        table = self.frame.to_string(max_rows=12, max_cols=6, float_format=lambda value: f"{value:.4g}")
        return f"<{self._description()}>\n{table}"

    def _description(self) -> str:
        number = self.array.sizes["dataset"]
        return f"{self.metric.upper()} in {self.unit} between {number} datasets, {self.extractor}"

    def _repr_html_(self) -> str:
        values = self.array.to_numpy()
        pairs = values[np.triu_indices(len(values), 1)]
        pairs = pairs[np.isfinite(pairs)]
        facts = {"extractor": self.extractor, "layers": f"{len(self.layers):,}"}
        if len(pairs):
            facts["distances"] = f"{pairs.min():.4g} to {pairs.max():.4g}, median {np.median(pairs):.4g} {self.unit}"
        return cards.card(self._description(), facts, self._figure())


class StoredMatrix:
    """The matrix of a spec on disk, of which only the needed chunks are read.

    Args:
        listed: its entry in the index.
        datasets: names of its datasets, in order.
        spec: the entry of its spec in the index.
        objects: SHA-256 of its objects by name. None for an older catalogue, which does not record them.
    """

    def __init__(
        self,
        folder: Manifests,
        listed: Mapping[str, Any],
        datasets: Sequence[str],
        spec: Mapping[str, Any],
        objects: Mapping[str, str] | None,
    ) -> None:
        self.datasets = list(datasets)
        self._listed, self._layers, self._extractor = listed, dict(spec["layers"]), str(spec["extractor"])
        path = str(listed["group"])
        if objects is None:
            objects = hashes(folder.get_group(path))
        expected = dict(objects)

        def get(name: str) -> bytes | None:
            return folder.get_verified(f"{path}/{name}", str(expected.get(name, "?")))

        self._rows = Rows(get, expected, f"{folder.url}/{path}")

    def check(self, metric: str) -> None:
        """Raise `UserError` if the matrix does not have this metric."""
        if metric not in self._listed["metrics"]:
            raise UserError(f"no metric {metric} for {self._extractor}; there is {', '.join(self._listed['metrics'])}")

    def row(self, metric: str, dataset: str, layers: Sequence[str] | None = None) -> dict[str, float]:
        """The distances of one dataset from all datasets, by name. `layers`: None for all."""
        place = self.datasets.index(dataset)
        values = self._over(metric, layers, slice(place, place + 1))[0]
        return dict(zip(self.datasets, values.tolist(), strict=True))

    def among(self, metric: str, layers: Sequence[str] | None = None, datasets: Sequence[str] | None = None) -> Matrix:
        """The distances between all datasets, or between some. Raises `UserError` for an unknown layer or dataset."""
        for key, chosen in {"layers": layers, "datasets": datasets}.items():
            if isinstance(chosen, str) or (chosen is not None and not list(chosen)):
                raise UserError(f"{key}={chosen!r}: give a list of at least one")
        names = self.datasets if datasets is None else list(datasets)
        if unknown := [name for name in names if name not in self.datasets]:
            raise UserError(f"datasets {', '.join(unknown[:5])}: not in the matrix of {', '.join(self.datasets[:20])}")
        values = self._over(metric, layers, slice(0, len(self.datasets)))
        if datasets is not None:
            places = [self.datasets.index(name) for name in names]
            values = values[np.ix_(places, places)]
        unit = str(self._listed["units"][metric])
        coordinates = {"dataset": np.array(names, dtype=object), "other": np.array(names, dtype=object)}
        array = xr.DataArray(values, coordinates, ("dataset", "other"), metric, {"units": unit})
        return Matrix(array, metric, unit, self._extractor, tuple(layers or self._layers))

    def whole(self, metric: str) -> xr.DataArray:
        """The distances (dataset, other, layer) float64, with those over all layers as the coordinate `overall`."""
        everything = slice(0, len(self.datasets))
        names = np.array(self.datasets, dtype=object)
        return xr.DataArray(
            self._read(metric, everything),
            {
                "dataset": names,
                "other": ("other", names),
                "layer": np.array(list(self._layers), dtype=object),
                "neurons": ("layer", np.array(list(self._layers.values()))),
                "overall": (("dataset", "other"), self._read(f"{metric}_overall", everything)),
            },
            ("dataset", "other", "layer"),
            metric,
            {"units": str(self._listed["units"][metric])},
        )

    def bounds(self, view: View, metric: str, layers: Sequence[str] | None = None) -> np.ndarray:
        """A lower bound of each dataset's distance from a VDNA, (datasets) float64.

        The bounds of an older catalogue, which has no sketches, are zero.
        """
        chosen = list(layers or self._layers)
        parts = layer_slices(self._layers)
        places = np.concatenate([np.arange(parts[layer].start, parts[layer].stop) for layer in chosen])
        everything = slice(0, len(self.datasets))
        name = HISTOGRAM if metric == "emd" else MOMENTS[metric][0]
        if not self._rows.has(name):
            return np.zeros(len(self.datasets))
        if metric == "emd":
            shares = [cdf(view.histogram(layer)) for layer in chosen]
            own = np.concatenate([emd_sketch(layer_shares) for layer_shares in shares])
            sketches = self._read(HISTOGRAM, everything)[:, places]
            return emd_bound(sketches, own, shares[0].shape[1])
        means, deviations = (self._read(array, everything)[:, places] for array in MOMENTS[metric])
        bound = frechet_bound(means, deviations, *moments(view, metric, chosen)).sum(axis=1)
        lower: np.ndarray = bound / (len(chosen) if metric == "fd" else len(places))
        return lower * (1 - 1e-9)  # so that rounding never lifts it above the distance

    def _over(self, metric: str, layers: Sequence[str] | None, rows: slice) -> np.ndarray:
        """Distances (rows, datasets) over some layers: EMD and NFD are means over neurons, FD is a mean over layers."""
        if layers is None:
            return self._read(f"{metric}_overall", rows)
        every_layer, layers = list(self._layers), list(dict.fromkeys(layers))
        if unknown := [layer for layer in layers if layer not in every_layer]:
            raise LayerUserError(f"layers {', '.join(unknown)}: there are {', '.join(every_layer)}")
        if not layers:
            raise UserError("layers=[]: name at least one")
        values = self._read(metric, rows)[..., [every_layer.index(layer) for layer in layers]]
        weights = np.array([1 if metric == "fd" else self._layers[layer] for layer in layers], dtype=np.float64)
        mean: np.ndarray = (values * weights).sum(axis=-1) / weights.sum()
        return mean

    def _read(self, array: str, rows: slice) -> np.ndarray:
        names = self._rows.objects(array, rows)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            fetched = dict(zip(names, threads.map(self._rows.fetch, names), strict=True))
        return self._rows.read(array, rows, fetched)
