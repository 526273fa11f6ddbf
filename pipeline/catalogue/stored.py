"""Read a VDNA of a catalogue layer by layer.

v = StoredVDNA(folder, manifest)
v.histogram("block_0")                    # fetches only the chunks that hold this layer
v.load()                                  # the whole VDNA in memory; needs torch
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from distributions import HistogramAxes, Ledger, Spec, View
from distributions.spec import POSITIONS, arrays_of, kind_of
from pipeline.errors import DamagedError, damage
from pipeline.formats.datasets import ledger_of
from pipeline.formats.groups import open_group
from pipeline.formats.manifests import Manifests, group_path
from pipeline.formats.rows import Rows
from pipeline.storage.folder import AT_ONCE

if TYPE_CHECKING:
    from distributions import VDNA


class StoredAxes(HistogramAxes):
    """Histogram axes of a stored VDNA. The manifest has their id; their edges are read when first used."""

    rule = "exact"

    def __init__(self, layers: Mapping[str, int], identity: str, read: Callable[[str], np.ndarray]) -> None:
        self._layers, self._read, self.id = layers, read, identity

    @property
    def layers(self) -> Mapping[str, int]:
        return self._layers

    @cached_property
    def minimum(self) -> np.ndarray:
        return self._read("bin_low")

    @cached_property
    def maximum(self) -> np.ndarray:
        return self._read("bin_high")


def spec_of(facts: Mapping[str, Any], axis: Callable[[str], np.ndarray]) -> Spec:
    """The spec that a manifest or an index describes. `axis` reads the array "bin_low" or "bin_high" when first used.

    Raises `DamagedError` if the entries do not give the spec's id.
    """
    layers, distributions = facts["layers"], tuple(facts["distributions"])
    positions = {kind_of(name): samples for name, samples in facts.get("positions", {}).items()}
    unusual = {kind: samples for kind, samples in positions.items() if samples != POSITIONS[kind]}
    ranges = StoredAxes(layers, facts["ranges"], axis) if facts["ranges"] else None
    network = {key: facts[key] for key in ("extractor", "architecture", "weights", "preprocessing", "precision")}
    spec = Spec(**network, layers=layers, distributions=distributions, ranges=ranges, positions=unusual)
    if spec.id != facts["spec"]:
        raise DamagedError("it is of another spec than it says")
    return spec


StoredRanges = StoredAxes
"""The former name, which older pickles have."""


class StoredVDNA(View):
    """A view of a VDNA in a catalogue. `manifest` is its manifest.

    Fetched chunks are kept, compressed, as long as the view exists. `DamagedError` names a damaged object.
    """

    def __init__(self, folder: Manifests, manifest: Mapping[str, Any]) -> None:
        self.manifest = dict(manifest)
        self._folder = folder
        self._path = group_path(manifest)
        self._fetched: dict[str, bytes] = {}
        with damage(f"{folder.url}/{self._path} is damaged: its manifest"):
            self.spec = spec_of(manifest, self._axis)

    def __repr__(self) -> str:
        m = self.manifest
        return f"<VDNA of {m['dataset']} by {m['extractor']}: {m['images']} images, version {m.get('version', 1)}>"

    @property
    def title(self) -> str:
        """The dataset's name."""
        return str(self.manifest["dataset"])

    def facts(self) -> dict[str, str]:
        """Facts about the VDNA to show, by name."""
        names = ("version", "created", "licence")
        return {**super().facts(), **{name: str(self.manifest[name]) for name in names if self.manifest.get(name)}}

    @property
    def images(self) -> int:
        """Images counted."""
        return int(self.manifest["images"])

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger: what every shard contributed."""
        if "objects" not in self.manifest:
            return self.load().ledger
        names = [name for name in self.manifest["objects"] if name.startswith(("shard_", "reason/", "zarr.json"))]
        with damage(f"{self._folder.url}/{self._path} is damaged: its ledger"):
            return ledger_of(open_group({name: self._fetch(name) for name in self._fetch_all(names)}))

    def rows(self, array: str, part: slice) -> np.ndarray:
        """The rows of some neurons of an array. Fetches only the chunks that hold them."""
        names = self._fetch_all(self._rows.objects(array, part))
        return self._rows.read(array, part, {name: self._fetch(name) for name in names})

    def fetch(self, kind: str, layers: Iterable[str] | None = None) -> None:
        """Fetch the chunks of a kind of distribution for some layers (None: all). Later reads need no request."""
        parts = [self.part(layer) for layer in (self.layers if layers is None else layers)]
        names = {
            name
            for distribution in self.spec.distributions
            if kind_of(distribution) == kind
            for array in arrays_of(distribution)
            if not array.startswith("histogram_")  # distances do not need the flows
            for part in parts
            for name in self._rows.objects(array, part)
        }
        self._fetch_all(sorted(names))

    def load(self) -> VDNA:
        """The whole VDNA, in memory, with its digest checked. Needs torch."""
        return self._folder.get_vdna(self.manifest)

    def digest(self) -> str:
        """SHA-256 of its contents, the same for the same images."""
        return str(self.manifest["digest"])

    @cached_property
    def _rows(self) -> Rows:
        if "objects" not in self.manifest:  # an older catalogue: the whole VDNA is read
            return self._folder.get_rows(self.manifest)
        expected = self.manifest["objects"]
        return Rows(
            lambda name: self._folder.get_verified(f"{self._path}/{name}", str(expected.get(name, "?"))),
            expected,
            f"{self._folder.url}/{self._path}",
        )

    def _fetch(self, name: str) -> bytes:
        if name not in self._fetched:
            self._fetched[name] = self._rows.fetch(name)
        return self._fetched[name]

    def _fetch_all(self, names: list[str]) -> list[str]:
        """Fetch objects, several at a time, and return their names."""
        missing = [name for name in names if name not in self._fetched]
        if len(missing) > 1:
            rows = self._rows
            with ThreadPoolExecutor(AT_ONCE) as threads:
                self._fetched |= zip(missing, threads.map(rows.fetch, missing), strict=True)
        return names

    def _axis(self, array: str) -> np.ndarray:
        return self.rows(array, self.part(None))
