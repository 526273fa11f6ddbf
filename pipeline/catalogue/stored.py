"""A VDNA that lies in a catalogue: read layer by layer, as it is asked for.

v = StoredVDNA(folder, manifest)
v.histogram("block_0")                    # fetches the chunks that hold this layer, no more
v.load()                                  # the whole of it, to be merged with others; needs torch
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from distributions import Ledger, Ranges, Spec, View
from distributions.spec import POSITIONS, arrays_of, kind_of
from pipeline.errors import DamagedError
from pipeline.formats.groups import damage, ledger_of, opened
from pipeline.formats.manifests import Manifests, group_path
from pipeline.formats.rows import Rows
from pipeline.storage.folder import AT_ONCE

if TYPE_CHECKING:
    from distributions import VDNA


class StoredRanges(Ranges):
    """Histogram axes of a stored VDNA: their id is known, their edges are read when they are asked for."""

    def __init__(self, layers: Mapping[str, int], identity: str, read: Callable[[str], np.ndarray]) -> None:
        for name, value in {"layers": layers, "rule": "exact", "_read": read, "id": identity}.items():
            object.__setattr__(self, name, value)

    @cached_property
    def minimum(self) -> np.ndarray:
        return self._read("bin_low")  # type: ignore[attr-defined, no-any-return]

    @cached_property
    def maximum(self) -> np.ndarray:
        return self._read("bin_high")  # type: ignore[attr-defined, no-any-return]


def spec_of(facts: Mapping[str, Any], axis: Callable[[str], np.ndarray]) -> Spec:
    """The spec that a manifest or an index describes; `axis` reads `bin_low` and `bin_high`, should they be needed."""
    layers, distributions = facts["layers"], tuple(facts["distributions"])
    given = {kind_of(name): samples for name, samples in facts.get("positions", {}).items()}
    others = {kind: samples for kind, samples in given.items() if samples != POSITIONS[kind]}
    ranges = StoredRanges(layers, facts["ranges"], axis) if facts["ranges"] else None
    network = {key: facts[key] for key in ("extractor", "architecture", "weights", "preprocessing", "precision")}
    spec = Spec(**network, layers=layers, distributions=distributions, ranges=ranges, positions=others)
    if spec.id != facts["spec"]:
        raise DamagedError("it is of another spec than it says")
    return spec


class StoredVDNA(View):
    """A view of a VDNA in a catalogue. `manifest` is what the catalogue says of it. What was fetched is kept as long as
    the view is, compressed. `DamagedError` names what is not as it was written."""

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
        """What is worth knowing of it, in words."""
        said = {name: str(self.manifest[name]) for name in ("version", "created", "licence") if self.manifest.get(name)}
        return {**super().facts(), **said}

    @property
    def images(self) -> int:
        """Images counted."""
        return int(self.manifest["images"])

    @cached_property
    def ledger(self) -> Ledger:
        """What every shard contributed."""
        if "objects" not in self.manifest:
            return self.load().ledger
        names = [name for name in self.manifest["objects"] if name.startswith(("shard_", "reason/", "zarr.json"))]
        with damage(f"{self._folder.url}/{self._path} is damaged: its ledger"):
            return ledger_of(opened({name: self._fetch(name) for name in self._all(names)}))

    def rows(self, array: str, part: slice) -> np.ndarray:
        """Some neurons' rows of an array, from the chunks that hold them."""
        names = self._all(self._rows.objects(array, part))
        return self._rows.read(array, part, {name: self._fetch(name) for name in names})

    def fetch(self, kind: str, layers: Iterable[str] | None = None) -> None:
        """Fetch what a kind of distribution has of some layers, or of all, at once: later reads need no request."""
        parts = [self.part(layer) for layer in (self.layers if layers is None else layers)]
        names = {
            name
            for distribution in self.spec.distributions
            if kind_of(distribution) == kind
            for array in arrays_of(distribution)
            if not array.startswith("histogram_")  # the flows, which distances do not need
            for part in parts
            for name in self._rows.objects(array, part)
        }
        self._all(sorted(names))

    def load(self) -> VDNA:
        """The VDNA itself, read whole, with its contents checked once more as such."""
        return self._folder.get_vdna(self.manifest)

    def digest(self) -> str:
        """SHA-256 over its contents: equal for equal images."""
        return str(self.manifest["digest"])

    @cached_property
    def _rows(self) -> Rows:
        if "objects" not in self.manifest:  # of before: read whole
            return self._folder.get_rows(self.manifest)
        expected = self.manifest["objects"]
        return Rows(
            lambda name: self._folder.get_known(f"{self._path}/{name}", str(expected.get(name, "?"))),
            expected,
            f"{self._folder.url}/{self._path}",
        )

    def _fetch(self, name: str) -> bytes:
        if name not in self._fetched:
            self._fetched[name] = self._rows.fetch(name)
        return self._fetched[name]

    def _all(self, names: list[str]) -> list[str]:
        """Fetch these objects, several at once."""
        missing = [name for name in names if name not in self._fetched]
        if len(missing) > 1:
            rows = self._rows
            with ThreadPoolExecutor(AT_ONCE) as threads:
                self._fetched |= zip(missing, threads.map(rows.fetch, missing), strict=True)
        return names

    def _axis(self, array: str) -> np.ndarray:
        return self.rows(array, self.part(None))
