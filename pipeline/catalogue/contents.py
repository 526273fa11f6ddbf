"""Read the index, manifests, VDNAs and matrices of a catalogue, each when it is first used."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import xarray as xr

from pipeline.catalogue import index as published
from pipeline.catalogue.card import card
from pipeline.catalogue.matrix import Matrix, StoredMatrix
from pipeline.catalogue.stored import StoredVDNA
from pipeline.catalogue.targets import address
from pipeline.errors import UserError
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


class Contents:
    """The part of a catalogue's reader that reads objects. `reader.CatalogueReader` adds the methods that compute."""

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
        """A table with a row for each VDNA: its dataset, its numbers of images, and how it was made.

        Returns:
            A table with the columns `dataset`, `extractor`, `images`, `skipped`, `shards`, `digest`, `version`,
                `licence` and others.
        """
        rows = [{**row, "distributions": " ".join(row["distributions"])} for row in self._rows]
        return pd.DataFrame(rows, columns=[*COLUMNS, *MORE])

    def manifest(
        self, dataset: str, extractor: str | None = None, spec: str | None = None, version: int | None = None
    ) -> dict[str, Any]:
        """The manifest of a VDNA: everything that the catalogue holds about it, except its arrays.

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
        return {**self._folder.check_manifest(content, record["path"]), "record": dict(record)}

    def vdna(
        self, dataset: str, extractor: str | None = None, spec: str | None = None, version: int | None = None
    ) -> StoredVDNA:
        """A VDNA of the catalogue, chosen as by `manifest`.

        Returns:
            A view that reads a layer when it is first used, and checks each chunk against its SHA-256.
                `.load()` reads the whole VDNA into memory, to merge it.

        Raises:
            UserError: There is no such VDNA or version.
        """
        return StoredVDNA(self._folder, self.manifest(dataset, extractor, spec, version))

    def distances(self, extractor: str, metric: str, spec: str | None = None) -> xr.DataArray:
        """Distances between all datasets, layer by layer.

        Args:
            extractor: The extractor's name.
            metric: "emd", "nfd" or "fd".
            spec: The id of a spec. None: of the extractor's specs the one with the most datasets, then the newest.

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

    def has(self, dataset: str) -> bool:
        """Whether the catalogue has a VDNA of a dataset."""
        return any(row["dataset"] == dataset for row in self._rows)

    def example(self, extractor: str | None = None, dataset: str | None = None) -> StoredVDNA:
        """A VDNA whose spec new measurements can follow.

        Args:
            extractor: The extractor's name. None: any.
            dataset: The dataset's name. None: a dataset of the spec that has the most datasets.

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
