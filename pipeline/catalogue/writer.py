"""Write a catalogue, and read what the stages need of it: `CatalogueWriter("catalogue").put_vdna(vdna, NAME, facts)`.

    plans/DATASET/EXTRACTOR.json.gz            tasks of the dataset, as last planned
    ranges/NETWORK/ID.json, current            histogram axes of a network; the one in use
    partials/SPEC/TASK.zip                     one immutable partial per task, a Zarr group
    partials/SPEC/tile-ID.zip                  a tile of a matrix, until the whole matrix is stored
    failures/SPEC/TASK.json                    why a task failed for good
    vdnas/, distances/                         VDNAs and matrices, with manifests: formats/manifests.py
    catalogue.json, index/, site/              the published index and site: catalogue/index.py

A reader sees only objects that a manifest names, so a writer that dies leaves nothing that is read by halves.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import xarray as xr

from distributions import VDNA, HistogramAxes, IncompatibleError, Spec
from pipeline.catalogue.summary import summary
from pipeline.data.plan import Plan
from pipeline.data.shards import Work
from pipeline.errors import DamagedError, UserError
from pipeline.formats.datasets import FORMAT, from_dataset, to_dataset
from pipeline.formats.groups import pack, unzip, zipped
from pipeline.formats.manifests import HASH, NAME, Manifests, group_name, group_path, now, version_of
from pipeline.formats.rows import hashes
from pipeline.storage.changes import STALE, change
from pipeline.storage.folder import as_json
from pipeline.storage.urls import redact

TILE = "tile-"
"""Prefix of the names of a matrix's tiles."""


class CatalogueWriter(Manifests):
    """A catalogue at a path or URL, open for writing. `Store` is the former name."""

    # -- plans and ranges ------------------------------------------------------------------------

    def put_plan(self, plan: Plan) -> None:
        """Store a plan as its dataset's current plan. Writes nothing if the stored plan is the same."""
        path = f"plans/{plan.dataset['name']}/{plan.network_spec.extractor}.json.gz"
        data = plan.to_bytes()
        if self.get(path) != data:
            self.put(path, data)

    def get_plan(self, dataset: str, extractor: str, storage: Mapping[str, Any]) -> Plan:
        """The current plan of a dataset, with fsspec options to read its shards. `UserError` if there is none yet."""
        path = f"plans/{dataset}/{extractor}.json.gz"
        data = self.get(path)
        if data is None:
            raise UserError(f"no plan for dataset {dataset} and extractor {extractor} yet: add plan to stages=[...]")
        try:
            return Plan.from_bytes(data, storage)
        except ValueError as error:
            raise DamagedError(f"{self.url}/{path} is damaged ({error}): add plan to stages=[...]") from error

    def put_ranges(self, network_id: str, ranges: HistogramAxes) -> None:
        """Store histogram axes under their id. The first axes of a network become its current axes."""
        self.put_new(f"ranges/{network_id}/{ranges.id}.json", ranges.to_json().encode())
        self.put_new(f"ranges/{network_id}/current", ranges.id.encode())

    def get_ranges(self, network_id: str, ranges_id: str | None = None) -> HistogramAxes | None:
        """The histogram axes of a network with an id, or its current axes. None if they do not exist."""
        if ranges_id is None:
            current = self.get(f"ranges/{network_id}/current")
            if current is None:
                return None
            ranges_id = current.decode(errors="replace")
        path = f"ranges/{network_id}/{ranges_id}.json"
        data = self.get(path) if HASH.fullmatch(ranges_id) else None
        if data is None:
            return None
        try:
            ranges = HistogramAxes.from_json(data.decode())
        except ValueError as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error
        if ranges.id != ranges_id:
            raise DamagedError(f"{self.url}/{path} is damaged: its contents are other ranges")
        return ranges

    # -- partials --------------------------------------------------------------------------------

    def partials(self, spec_id: str) -> set[str]:
        """Ids of the tasks whose partial is stored."""
        return set(self.names(f"partials/{spec_id}", ".zip"))

    def put_partial(self, vdna: VDNA, task_id: str, provenance: Mapping[str, Any]) -> None:
        """Store the partial of a task, with the record of what made it."""
        attributes = {"task": task_id, "provenance": json.dumps(provenance)}
        if vdna.ledger.noticed is not None:
            attributes["noticed"] = json.dumps(vdna.ledger.noticed)
        dataset = to_dataset(vdna, attributes)
        objects = pack(dataset, consolidated=False)
        self.put(f"partials/{vdna.spec.id}/{task_id}.zip", zipped(objects))

    def get_partial(self, spec: Spec, task_id: str) -> tuple[VDNA, dict[str, Any]] | None:
        """The partial of a task and its provenance, or None. `DamagedError`: it was damaged, and is removed now."""
        path = f"partials/{spec.id}/{task_id}.zip"
        data = self.get(path)
        if data is None:
            return None
        try:
            dataset = unzip(data)
            if dataset.attrs["task"] != task_id:
                raise DamagedError("it is another task's")
            vdna = from_dataset(dataset, spec)
            if "noticed" in dataset.attrs:  # older partials do not have it
                vdna.ledger.noticed = _noticed(json.loads(dataset.attrs["noticed"]), vdna.images)
            return vdna, dict(json.loads(dataset.attrs["provenance"]))
        except UserError as error:
            raise UserError(f"{self.url}/{path}: {error}") from error
        except (IncompatibleError, DamagedError, LookupError, TypeError, ValueError, RecursionError) as error:
            self.remove(path)
            raise DamagedError(
                f"{path} is damaged ({error}) and was removed: the same command makes it again"
            ) from error

    def put_tile(self, spec_id: str, tile_id: str, distances: xr.Dataset) -> None:
        """Store a tile of a matrix among the partials, where the scheduler looks for finished tasks."""
        packed = pack(distances.assign_attrs(task=tile_id), consolidated=False)
        self.put(f"partials/{spec_id}/{tile_id}.zip", zipped(packed))

    def get_tile(self, spec_id: str, tile_id: str) -> xr.Dataset | None:
        """A tile of a matrix, or None if it is not stored or is damaged: then it has to be computed."""
        data = self.get(f"partials/{spec_id}/{tile_id}.zip")
        try:
            tile = None if data is None else unzip(data).load()
        except (DamagedError, RuntimeError, ValueError):
            return None
        return tile if tile is not None and tile.attrs.get("task") == tile_id else None

    def forget_tiles(self, spec_id: str, tile_ids: Collection[str]) -> None:
        """Remove these tiles of a matrix that is stored now, and tiles that an abandoned run left long ago."""
        for tile_id in self.names(f"partials/{spec_id}", ".zip"):
            path = f"partials/{spec_id}/{tile_id}.zip"
            if tile_id.startswith(TILE) and (tile_id in tile_ids or self.age(path) > STALE):
                self.remove(path)

    def put_failures(self, spec_id: str, tasks: Iterable[Work], failed: Mapping[int, str]) -> None:
        """Record the tasks that failed for good. `failed` has the reason by the index of the task."""
        for task in tasks:
            if task.index in failed:
                record = {"task": task.id, "reason": redact(failed[task.index]), "at": now()}
                self.put_json(f"failures/{spec_id}/{task.id}.json", record)

    def forget_failures(self, spec_id: str, done: set[str]) -> None:
        """Remove the failure records of tasks that have succeeded since."""
        for task_id in done & set(self.names(f"failures/{spec_id}", ".json")):
            self.remove(f"failures/{spec_id}/{task_id}.json")

    # -- VDNAs and distances -----------------------------------------------------------------------

    def put_vdna(self, vdna: VDNA, dataset: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Store a dataset's VDNA as the current version and return its manifest.

        `facts` are further entries of the manifest, such as "fingerprint" and "provenance". The version number grows if
        the contents or the images' places have changed; previous versions stay readable. `UserError`: an unusable name.
        """
        for name in (dataset, vdna.spec.extractor):
            if not NAME.fullmatch(name):
                raise UserError(f"{name!r} cannot be a name: use letters, digits, '.', '_' and '-' (at most 128)")
        manifest = {"format": FORMAT, "dataset": dataset, **summary(vdna), **facts, "created": now()}
        manifest["program"] = f"vdna-catalogue {importlib.metadata.version('vdna-catalogue')}"
        attributes = {name: manifest[name] for name in ("dataset", "fingerprint", "images", "program")}
        attributes["provenance"] = json.dumps(manifest["provenance"])
        packed = to_dataset(vdna, attributes)
        manifest |= {"digest": packed.attrs["digest"], "sources": packed.attrs["sources"]}
        objects = pack(packed, consolidated=True)
        manifest |= {"objects": hashes(objects), "bytes": sum(map(len, objects.values()))}
        manifest["group"] = group_name(manifest["objects"])
        self.put_group(group_path(manifest), objects)
        if self.manifest(dataset, vdna.spec.extractor, vdna.spec.id) is None:
            self._restore_current(dataset, vdna.spec.extractor, vdna.spec.id)  # the version number grows from there

        def next_version(previous: dict[str, Any] | None) -> dict[str, Any]:
            if previous is None:
                return {**manifest, "version": 1, "versions": []}
            same = all(previous.get(key) == manifest[key] for key in ("digest", "sources"))
            number = previous["version"] + (not same)
            versions = previous["versions"] + [version_of(previous)] * (not same)
            return {**manifest, "version": number, "versions": versions}

        return self._update(manifest, next_version)

    def put_facts(self, manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Change facts of a VDNA, such as its description, unless its contents have changed since. Its record stays."""
        contents = {key: manifest[key] for key in ("digest", "fingerprint")}

        def with_facts(current: dict[str, Any] | None) -> dict[str, Any]:
            base = dict(manifest) if current is None else current
            return {**base, **(facts if contents.items() <= base.items() else {})}

        self._update(manifest, with_facts)

    def with_record(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """A manifest that names its record: an immutable copy of it. Writes the record for an older catalogue."""
        if "record" in manifest:
            return dict(manifest)
        return self._update(manifest, lambda current: dict(manifest) if current is None else current)

    def restore(self, dataset: str, extractor: str, spec_id: str) -> bool:
        """Restore a damaged manifest from the record of the last version. False if there is no manifest or record."""
        exists = self.get(f"vdnas/{dataset}/{extractor}/{spec_id}.json") is not None
        return exists and self._restore_current(dataset, extractor, spec_id)

    def _restore_current(self, dataset: str, extractor: str, spec_id: str) -> bool:
        """Make the last recorded version the current one, unless a manifest is sound. Whether there is a record."""
        last = self._last_recorded(dataset, extractor, spec_id)
        if last is not None:
            self._update(last, lambda current: current or last)
        return last is not None

    def _update(
        self, manifest: Mapping[str, Any], make: Callable[[dict[str, Any] | None], dict[str, Any]]
    ) -> dict[str, Any]:
        """Replace the current manifest by `make(current)`, record it and return it. `make` is called again if another
        run replaces the manifest first. Instead of a damaged manifest, `make` gets the last recorded one."""
        dataset, extractor, spec_id = (manifest[key] for key in ("dataset", "extractor", "spec"))
        folder, written = f"vdnas/{dataset}/{extractor}", ""

        def replaced(data: bytes | None) -> bytes:
            nonlocal written
            current = None if data is None else self._parse(dataset, extractor, spec_id, data)
            if current is not None and "record" not in current:
                current = self._record(folder, current)
            if written and written not in _records(current):  # another run has taken this version number
                self.remove(written)
            new = make(current)
            if "record" not in new:
                new = self._record(folder, new)
                written = new["record"]["path"]
            return as_json(new)

        return dict(json.loads(change(self, f"{folder}/{spec_id}.json", replaced)))

    def _record(self, folder: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record of a version: a copy of its manifest, named after its contents. Returns the manifest."""
        content = {"version": 1, "versions": [], **manifest}
        if "objects" not in content:  # an older catalogue
            content["objects"] = hashes(self.whole(group_path(manifest))[1])
        data = as_json(content)
        digest = hashlib.sha256(data).hexdigest()
        path = f"{folder}/versions/{manifest['spec']}-{content['version']}-{digest[:16]}.json"
        self.put(path, data)
        return {**content, "record": {"path": path, "sha256": digest}}

    def _parse(self, dataset: str, extractor: str, spec_id: str, data: bytes) -> dict[str, Any] | None:
        """The current manifest from its bytes; if they are damaged, the last recorded manifest."""
        try:
            return self.parse_manifest(data, dataset, extractor, spec_id)
        except DamagedError:
            return self._last_recorded(dataset, extractor, spec_id)

    def _last_recorded(self, dataset: str, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """The manifest of the last version that has a record; None if no version has one."""
        folder = f"vdnas/{dataset}/{extractor}/versions"
        manifests = []
        for name in self.names(folder, ".json"):
            data = self.get(f"{folder}/{name}.json") if name.startswith(f"{spec_id}-") else None
            digest = hashlib.sha256(data or b"").hexdigest()
            if data is not None and name.endswith(f"-{digest[:16]}"):
                record = {"path": f"{folder}/{name}.json", "sha256": digest}
                manifests.append({**json.loads(data), "record": record})
        return max(manifests, key=lambda m: (m["version"], m["created"]), default=None)

    def put_distances(self, spec_id: str, extractor: str, distances: xr.Dataset, facts: Mapping[str, Any]) -> None:
        """Store a matrix as the current one. Earlier matrices stay for a while, for readers that have opened them."""
        folder, objects = f"distances/{extractor}/{spec_id}", pack(distances, consolidated=True)
        manifest = {"format": FORMAT, "extractor": extractor, "spec": spec_id, **facts, "objects": hashes(objects)}
        manifest["group"] = group_name(manifest["objects"])
        self.put_group(f"{folder}/{manifest['group']}", objects)
        self._record_distances(folder, manifest)

    def distances_with_record(self, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """The manifest of the current matrix, which names its record; None if there is no matrix."""
        manifest = self.distances_manifest(extractor, spec_id)
        if manifest is None or "record" in manifest:
            return manifest
        folder = f"distances/{extractor}/{spec_id}"  # an older catalogue
        objects = hashes(self.get_group(f"{folder}/{manifest['group']}"))
        return self._record_distances(folder, {**manifest, "objects": objects})

    def _record_distances(self, folder: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        data = as_json(manifest)
        record = {"path": f"{folder}/{manifest['group']}.json", "sha256": hashlib.sha256(data).hexdigest()}
        self.put(record["path"], data)
        current = {**manifest, "record": record}
        self.put_json(f"{folder}/manifest.json", current)
        return current


Store = CatalogueWriter
"""The former name of `CatalogueWriter`."""


def _records(manifest: Mapping[str, Any] | None) -> set[str]:
    """Paths of the records that a manifest names."""
    if manifest is None:
        return set()
    return {manifest["record"]["path"], *(version["manifest"]["path"] for version in manifest["versions"])}


def _noticed(content: Any, images: int) -> dict[str, int]:
    """The counts of noticed properties in a partial of so many images, checked because no digest covers them."""
    limits = {"archives": 1 << 62}
    if not isinstance(content, dict) or not all(
        type(n) is int and 0 <= n <= limits.get(k, images) for k, n in content.items()
    ):
        raise DamagedError("it says impossible numbers of what was noticed")
    return content
