"""Read a catalogue with `open_catalogue(URL)`. The index is in memory; everything else is read when it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from distributions import IncompatibleError, Spec, View
from distributions.comparison import KINDS, Comparison, compare
from distributions.distances import check_comparable
from pipeline.catalogue import neighbours
from pipeline.catalogue.contents import Contents
from pipeline.catalogue.stored import StoredVDNA, spec_of
from pipeline.errors import DamagedError, UserError


class CatalogueReader(Contents):
    """A read-only view of a catalogue, as it was when it was opened: what is published later does not change it."""

    def nearest(
        self,
        of: str | View,
        extractor: str | None = None,
        metric: str = "emd",
        k: int = 10,
        *,
        layers: Sequence[str] | None = None,
        spec: str | None = None,
    ) -> pd.Series[float]:
        """The datasets nearest to a dataset of the catalogue, or to any VDNA.

        The nearest datasets of a dataset are read from the matrix. Another VDNA is compared with as few datasets as an
        exact answer needs.

            cat.nearest("demo_digits", "efficientnet_lite0")
            cat.nearest(make_vdna("photos/", catalogue="catalogue"), k=3, layers=["blocks.6.0"])

        Args:
            of: The name of a dataset, or a VDNA.
            extractor: The extractor's name, where `of` is a name. None: as for `manifest`.
            metric: "emd", "nfd" or "fd".
            k: How many datasets, at least 1.
            layers: The layers that count. None: all.
            spec: The id of a spec, where `of` is a name.

        Returns:
            Distances by dataset, the nearest first; fewer than `k` where the catalogue has fewer.

        Raises:
            UserError: An argument is not allowed, or the dataset is not in the matrix.
            IncompatibleError: Nothing in the catalogue can be compared with the VDNA.
        """
        if metric not in KINDS:
            raise UserError(f"metric={metric}: allowed are {', '.join(KINDS)}")
        if not isinstance(k, int) or k < 1:
            raise UserError(f"k={k}: must be a whole number, at least 1")
        if isinstance(layers, str):
            raise UserError(f"layers={layers!r}: give a list")
        if isinstance(of, View):
            distances = self._nearest_to(of, metric, k, layers)
        else:
            distances = self._nearest_of(of, str(extractor or self.extractor_of(of)), metric, k, layers, spec)
        return pd.Series(distances, dtype=float, name=metric).rename_axis("dataset")

    def _nearest_of(
        self, dataset: str, extractor: str, metric: str, k: int, layers: Sequence[str] | None, spec: str | None
    ) -> dict[str, float]:
        self.manifest(dataset, extractor, spec)
        matrix = self._matrix(extractor, metric, spec)
        if dataset not in matrix.datasets:
            raise UserError(
                f"{dataset} is not in the matrix of {extractor}: run it again with stages=[compare]; what was "
                f"imported is compared one by one: cat.nearest(cat.vdna({dataset!r}, {extractor!r}))"
            )
        row = matrix.row(metric, dataset, layers)
        others = [pair for pair in row.items() if pair[0] != dataset]
        return dict(sorted(others, key=lambda pair: (pair[1], pair[0]))[:k])

    def _nearest_to(self, view: View, metric: str, k: int, layers: Sequence[str] | None) -> dict[str, float]:
        for layer in layers or ():
            view.part(layer)
        specs, reasons = self._comparable(view.spec, metric, layers)
        rows = [row for row in self._rows if row["spec"] in specs]
        if not rows:
            raise IncompatibleError(f"nothing in this catalogue can be compared with it: {'; '.join(reasons[:3])}")

        def distance_to(row: Mapping[str, Any]) -> float:
            other = StoredVDNA(self._folder, self._manifest(row))
            other.fetch(KINDS[metric] if other.has(KINDS[metric]) else "layer-gaussian", layers)
            return compare(view, other, layers=layers, metrics=[metric]).overall[metric]

        def distances_to(places: Sequence[int]) -> list[float]:
            with ThreadPoolExecutor(neighbours.AT_ONCE) as threads:
                return list(threads.map(distance_to, [rows[place] for place in places]))

        members: list[dict[str, Any]] = []
        bounds = np.empty(0)
        matrices = [m for m in self._index["matrices"] if m["spec"] in specs and metric in m["metrics"]]
        if matrices:
            matrix = max(matrices, key=lambda m: (len(m["members"]), m["created"]))
            members = [self._rows[place] for place in matrix["members"]]
            bounds = self._stored(matrix).bounds(view, metric, layers)
        newest = {row["dataset"]: row for row in sorted(rows, key=lambda row: str(row["created"]))}
        newest |= {row["dataset"]: row for row in members}
        if isinstance(view, StoredVDNA):  # a VDNA is not its own neighbour
            newest = {n: r for n, r in newest.items() if (n, r["digest"]) != (view.manifest["dataset"], view.digest())}
        bound = dict(zip([row["dataset"] for row in members], bounds, strict=True))
        rows = list(newest.values())
        lower = np.array([bound.get(row["dataset"], 0.0) for row in rows])
        near = neighbours.nearest(lower, distances_to, k)
        return {str(rows[i]["dataset"]): distance for i, distance in near.items()}

    def _comparable(self, spec: Spec, metric: str, layers: Sequence[str] | None) -> tuple[set[str], list[str]]:
        """The specs of the catalogue that are comparable with a spec, and the reasons why the others are not."""
        comparable, reasons = set(), []
        for identity, facts in self._index["specs"].items():
            other = spec_of({**facts, "spec": identity}, partial(_unread, identity))
            try:
                if metric == "fd" and not other.has("layer-gaussian"):
                    raise IncompatibleError("it has no layer-gaussian")
                for layer in layers or (None,):
                    check_comparable(spec, other, layer, KINDS[metric])
                comparable.add(identity)
            except IncompatibleError as error:
                reasons.append(str(error))
        return comparable, reasons

    def compare(
        self,
        a: str | View,
        b: str | View,
        extractor: str | None = None,
        layers: Sequence[str] | None = None,
        metrics: Sequence[str] = tuple(KINDS),
    ) -> Comparison:
        """Compare two datasets of the catalogue, or any two VDNAs, over all neurons, by layer and by neuron.

        Args:
            a: The name of a dataset, or a VDNA.
            b: Likewise.
            extractor: The extractor's name, where both are names. None: as for `manifest` of `a`.
            layers: The layers that count. None: all.
            metrics: Some of "emd", "nfd" and "fd".

        Returns:
            `.overall`, `.layers` and `.neurons` hold the distances, `.most(10)` the neurons that differ most, and
                `.save("pair.svg")` writes a picture.

        Raises:
            UserError: There is no such dataset.
            IncompatibleError: The two cannot be compared.
        """
        for of in (a, b):
            if not isinstance(of, str | View):
                raise UserError(f"{of!r}: give a dataset's name or a VDNA")
        names = tuple(str(of) if isinstance(of, str) else _name(of) for of in (a, b))
        spec = None
        if isinstance(a, str) and isinstance(b, str):
            extractor = extractor or self.extractor_of(a)
            rows, others = ([r for r in self._rows if (r["dataset"], r["extractor"]) == (n, extractor)] for n in names)
            both = [row for row in rows if row["spec"] in {other["spec"] for other in others}]
            spec = max(both, key=lambda row: str(row["created"]))["spec"] if both else None
        views: list[View] = []
        for of, other in ((a, b), (b, a)):
            if isinstance(of, str) and isinstance(other, View):
                views.append(self.vdna(of, other.spec.extractor, self._spec_beside(of, other)))
            else:
                views.append(of if isinstance(of, View) else self.vdna(of, str(extractor), spec))
        return compare(views[0], views[1], (names[0], names[1]), layers, metrics)

    def _spec_beside(self, dataset: str, view: View) -> str | None:
        """The newest spec of a dataset that is comparable with a VDNA, or None."""
        for metric in KINDS:
            comparable, _ = self._comparable(view.spec, metric, None)
            if specs := [row["spec"] for row in self._rows if row["dataset"] == dataset and row["spec"] in comparable]:
                return str(specs[-1])
        return None


Catalogue = CatalogueReader  # the public name


def open_catalogue(url: str, **storage: Any) -> CatalogueReader:
    """Open a catalogue. This reads its index, with two requests; everything else is read when it is first used.

        cat = open_catalogue("catalogue")
        cat.index()

    Args:
        url: A folder; a URL that fsspec knows (`https://`, `s3://`, …); or `hf:datasets/OWNER/NAME`.
        **storage: fsspec options for reading it.

    Returns:
        The catalogue as it is now. Open it again to see what was published later.

    Raises:
        UserError: There is no catalogue.
        DamagedError: Its index is damaged.
    """
    return CatalogueReader(url, **storage)


def _name(view: View) -> str:
    return view.title if isinstance(view, StoredVDNA) else "yours"


def _unread(identity: str, array: str) -> np.ndarray:
    raise DamagedError(f"an index has no {array} of spec {identity}")
