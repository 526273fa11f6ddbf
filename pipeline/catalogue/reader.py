"""Read a catalogue with `open_catalogue(URL)`. The index is in memory; everything else is read when it is needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from distributions import IncompatibleError, Spec, View
from distributions.comparison import KINDS, Comparison, compare
from distributions.distances import check_comparable
from pipeline.catalogue import index as published
from pipeline.catalogue import neighbours
from pipeline.catalogue.card import card
from pipeline.catalogue.matrix import Matrix, StoredMatrix
from pipeline.catalogue.stored import StoredVDNA, spec_of
from pipeline.catalogue.targets import address
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import CHANGING, Manifests
from pipeline.storage import cache
from pipeline.storage.objects import is_local

COLUMNS = ("dataset", "extractor", "images", "skipped", "damaged_shards", "shards", "distributions", "ranges")
MORE = (
    *("preprocessing", "precision", "architecture", "weights", "clamped_share", "not_finite"),
    *("spec", "fingerprint", "digest", "version", "created", "bytes", "description", "licence", "url"),
)
USUAL = "efficientnet_lite0"
PATIENCE = 30.0
"""Seconds without a byte after which a request is given up. It is short because a person waits for the answer."""


class CatalogueReader:
    """Read-only view of a catalogue, as it was when it was opened: what is published later does not change it."""

    def __init__(self, url: str, **storage: Any) -> None:
        self._folder = Manifests(*address(url, storage), PATIENCE)
        index = published.read(self._folder)
        self._manifests: list[dict[str, Any]] = []
        if index is None:  # nothing was published yet: the index is made from the manifests
            self._manifests = self._folder.manifests()
            pairs = sorted({(m["extractor"], m["spec"]) for m in self._manifests})
            matrices = [matrix for pair in pairs if (matrix := self._folder.distances_manifest(*pair))]
            index = published.make(self._manifests, matrices)
        if not index["vdnas"]:
            raise UserError(f"catalogue={url}: there is no catalogue here")
        self._index = index
        self._rows: list[dict[str, Any]] = [{**index["specs"][row["spec"]], **row} for row in index["vdnas"]]
        if not is_local(self._folder.fs):
            cache.tidy()

    def __repr__(self) -> str:
        return f"<Catalogue at {self._folder.url}: {len(self._rows)} VDNAs of {self._rows[-1]['created']}>"

    def _repr_html_(self) -> str:
        return card(self._folder.url, self._rows)

    def index(self) -> pd.DataFrame:
        """A row for each VDNA: what it is of, how complete it is and what it was made with.

        Returns:
            A table with the columns `dataset`, `extractor`, `images`, `skipped`, `shards`, `digest`, `version`,
                `licence` and others.
        """
        rows = [{**row, "distributions": " ".join(row["distributions"])} for row in self._rows]
        return pd.DataFrame(rows, columns=[*COLUMNS, *MORE])

    def manifest(
        self, dataset: str, extractor: str | None = None, spec: str | None = None, version: int | None = None
    ) -> dict[str, Any]:
        """Everything the catalogue says of one VDNA.

        Args:
            dataset: The dataset's name.
            extractor: The extractor's name. None: the only one, or `efficientnet_lite0` where there are several.
            spec: The id of a spec. None: the newest VDNA of this dataset and extractor.
            version: A version's number. None: the current one.

        Raises:
            UserError: There is no such VDNA or version.
        """
        extractor = extractor or self.extractor_of(dataset)
        rows = [row for row in self._rows if row["dataset"] == dataset and row["extractor"] == extractor]
        rows = [row for row in rows if spec in (None, row["spec"])]
        if not rows:
            raise UserError(f"no VDNA of dataset {dataset} with extractor {extractor}; there are {self.describe()}")
        newest = max(rows, key=lambda row: str(row["created"]))
        if version in (None, newest["version"]):
            return self._manifest(newest)
        versions = {row["version"]: row for row in newest["versions"]}
        if not isinstance(version, int) or version not in versions:
            available = ", ".join(map(str, versions)) or "1"
            raise UserError(f"{dataset} · {extractor}: there is no version {version!r}; there are {available}")
        return self._record(versions[version]["manifest"])

    def _manifest(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if row["manifest"] is None:
            return next(m for m in self._manifests if (m["dataset"], m["spec"]) == (row["dataset"], row["spec"]))
        facts = {key: row[key] for key in CHANGING if key in row}
        return {**self._record(row["manifest"]), **facts, "record": row["manifest"]}

    def _record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a version, from its record."""
        content = json.loads(published.checked(self._folder, record))
        return {**self._folder.checked(content, record["path"]), "record": dict(record)}

    def vdna(
        self, dataset: str, extractor: str | None = None, spec: str | None = None, version: int | None = None
    ) -> StoredVDNA:
        """A VDNA of the catalogue, chosen as by `manifest`.

        Returns:
            A view that reads the layers it is asked for, and only those; each chunk is checked against its SHA-256.
                `.load()` reads the whole VDNA into memory, to merge it.

        Raises:
            UserError: There is no such VDNA or version.
        """
        return StoredVDNA(self._folder, self.manifest(dataset, extractor, spec, version))

    # -- matrices ----------------------------------------------------------------------------------

    def distances(self, extractor: str, metric: str, spec: str | None = None) -> xr.DataArray:
        """Distances between all datasets, layer by layer.

        Args:
            extractor: The extractor's name.
            metric: "emd", "nfd" or "fd".
            spec: The id of a spec. None: of the extractor's specs the one with most datasets, then the newest.

        Returns:
            (dataset, other, layer) float64; the coordinate `overall` is (dataset, other), over all layers. The unit
                is in the attribute `units`.

        Raises:
            UserError: There are no distances for this extractor, or not this metric.
        """
        return self._matrix(extractor, metric, spec).whole(metric)

    def matrix(
        self,
        extractor: str,
        metric: str = "emd",
        layers: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        spec: str | None = None,
    ) -> Matrix:
        """The distances between datasets, over all layers or some.

        Args:
            extractor: The extractor's name.
            metric: "emd", "nfd" or "fd".
            layers: The layers that count. None: all.
            datasets: The datasets that are rows and columns, in this order. None: all.
            spec: As for `distances`.

        Returns:
            `.frame` is a labelled pandas.DataFrame, `.array` an xarray.DataArray, `.save("matrix.png")` a picture.

        Raises:
            UserError: There are no distances for this extractor, or no such metric, layer or dataset.
        """
        return self._matrix(extractor, metric, spec).among(metric, layers, datasets)

    def _matrix(self, extractor: str, metric: str, spec: str | None = None) -> StoredMatrix:
        matrices = [
            matrix
            for matrix in self._index["matrices"]
            if self._index["specs"][matrix["spec"]]["extractor"] == extractor and spec in (None, matrix["spec"])
        ]
        if not matrices:
            raise UserError(f"no distances for extractor {extractor}; there are VDNAs {self.describe()}")
        matrix = self._stored(max(matrices, key=lambda m: (len(m["members"]), m["created"])))
        matrix.check(metric)
        return matrix

    def _stored(self, matrix: Mapping[str, Any]) -> StoredMatrix:
        members = [self._rows[place]["dataset"] for place in matrix["members"]]
        objects = None
        if matrix["manifest"] is not None:
            objects = json.loads(published.checked(self._folder, matrix["manifest"]))["objects"]
        return StoredMatrix(self._folder, matrix, members, self._index["specs"][matrix["spec"]], objects)

    # -- questions ---------------------------------------------------------------------------------

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
        """The datasets most like one dataset of the catalogue, or like any VDNA.

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

    def has(self, dataset: str) -> bool:
        """Whether the catalogue has a VDNA of a dataset."""
        return any(row["dataset"] == dataset for row in self._rows)

    def example(self, extractor: str | None = None, dataset: str | None = None) -> StoredVDNA:
        """A VDNA whose spec new measurements can follow.

        Args:
            extractor: The extractor's name. None: any.
            dataset: The dataset's name. None: a dataset of the spec that has most datasets.

        Raises:
            UserError: There is none.
        """
        if dataset is not None:
            return self.vdna(dataset, extractor or self.extractor_of(dataset))
        rows = [row for row in self._rows if extractor in (None, row["extractor"])]
        if not rows:
            raise UserError(f"no VDNA with extractor {extractor}; there are {self.describe()}")
        number = Counter(row["spec"] for row in rows)
        row = max(rows, key=lambda row: (number[row["spec"]], str(row["created"])))
        return StoredVDNA(self._folder, self._manifest(row))

    def extractor_of(self, dataset: str) -> str:
        """The extractor that a dataset was measured with; `efficientnet_lite0` where it is one of several.

        Raises:
            UserError: There is no such dataset, or it was measured with several other extractors.
        """
        names = {row["extractor"] for row in self._rows if row["dataset"] == dataset}
        if len(names) == 1 or USUAL in names:
            return USUAL if USUAL in names else str(*names)
        by = f"measured with {', '.join(sorted(names))}: say with which"
        raise UserError(f"dataset {dataset} is {by if names else f'not among {self.describe()}'}")

    def describe(self) -> str:
        """The VDNAs of the catalogue in one line, for error messages."""
        names = [f"{row['dataset']} · {row['extractor']}" for row in self._rows[:20]]
        return ", ".join(names) + (f" and {len(self._rows) - 20} more" if len(self._rows) > 20 else "")


def open_catalogue(url: str, **storage: Any) -> CatalogueReader:
    """Open a catalogue: its index is read, with two requests; everything else is read when it is asked for.

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
