"""Everything that is written in a catalogue, and what the stages read of it.

    plans/DATASET/EXTRACTOR.json.gz            tasks of the dataset, as last planned
    ranges/NETWORK/ID.json, current            histogram axes of a network; the one in use
    partials/SPEC/TASK.zip                     one immutable partial per task, a Zarr group
    partials/SPEC/tile-ID.zip                  a piece of a matrix, until the whole is there
    failures/SPEC/TASK.json                    why a task has none, though it was tried
    vdnas/, distances/                         VDNAs and matrices, with manifests: manifests.py
    catalogue.json, index/, site/              what is published of them: catalogue/index.py

Readers see only what a manifest names, so a writer that dies leaves nothing half-seen.
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
from pipeline.formats.groups import FORMAT, from_dataset, pack, to_dataset, unzip, zipped
from pipeline.formats.manifests import HASH, NAME, Manifests, group_name, group_path, now, version_of
from pipeline.formats.rows import hashes
from pipeline.storage.changes import STALE, change
from pipeline.storage.folder import as_json
from pipeline.storage.urls import redact

TILE = "tile-"
"""What the names of pieces of a matrix begin with."""


class Store(Manifests):
    """A catalogue, to be written."""

    # -- plans and ranges ------------------------------------------------------------------------

    def put_plan(self, plan: Plan) -> None:
        """Make a plan the dataset's; writes nothing if it is already."""
        path = f"plans/{plan.dataset['name']}/{plan.network.extractor}.json.gz"
        data = plan.to_bytes()
        if self.get(path) != data:
            self.put(path, data)

    def get_plan(self, dataset: str, extractor: str, storage: Mapping[str, Any]) -> Plan:
        """The plan of a dataset, with the options to read its shards; `UserError` if there is none yet."""
        path = f"plans/{dataset}/{extractor}.json.gz"
        data = self.get(path)
        if data is None:
            raise UserError(f"no plan for dataset {dataset} and extractor {extractor} yet: add plan to stages=[...]")
        try:
            return Plan.from_bytes(data, storage)
        except ValueError as error:
            raise DamagedError(f"{self.url}/{path} is damaged ({error}): add plan to stages=[...]") from error

    def put_ranges(self, network: str, ranges: HistogramAxes) -> None:
        """Store ranges under their id; those that are the network's first are from now on in use."""
        self.put_new(f"ranges/{network}/{ranges.id}.json", ranges.to_json().encode())
        self.put_new(f"ranges/{network}/current", ranges.id.encode())

    def get_ranges(self, network: str, ranges_id: str | None = None) -> HistogramAxes | None:
        """The axes of that id, or those in use for a network; None if there are none."""
        if ranges_id is None:
            current = self.get(f"ranges/{network}/current")
            if current is None:
                return None
            ranges_id = current.decode(errors="replace")
        path = f"ranges/{network}/{ranges_id}.json"
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
        """Ids of the tasks whose partial is there."""
        return set(self.names(f"partials/{spec_id}", ".zip"))

    def put_partial(self, vdna: VDNA, task_id: str, provenance: Mapping[str, Any]) -> None:
        attributes = {"task": task_id, "provenance": json.dumps(provenance)}
        if vdna.ledger.noticed is not None:
            attributes["noticed"] = json.dumps(vdna.ledger.noticed)
        dataset = to_dataset(vdna, attributes)
        objects = pack(dataset, consolidated=False)
        self.put(f"partials/{vdna.spec.id}/{task_id}.zip", zipped(objects))

    def get_partial(self, spec: Spec, task_id: str) -> tuple[VDNA, dict[str, Any]] | None:
        """A partial and its provenance, None if it is not there. One that is not as it was written is removed,
        to be made again, and `DamagedError` names it."""
        path = f"partials/{spec.id}/{task_id}.zip"
        data = self.get(path)
        if data is None:
            return None
        try:
            dataset = unzip(data)
            if dataset.attrs["task"] != task_id:
                raise DamagedError("it is another task's")
            vdna = from_dataset(dataset, spec)
            if "noticed" in dataset.attrs:  # partials of before do not say
                vdna.ledger.noticed = _noticed(json.loads(dataset.attrs["noticed"]), vdna.images)
            return vdna, dict(json.loads(dataset.attrs["provenance"]))
        except (IncompatibleError, DamagedError, LookupError, TypeError, ValueError, RecursionError) as error:
            self.remove(path)
            raise DamagedError(
                f"{path} is damaged ({error}) and was removed: the same command makes it again"
            ) from error

    def put_tile(self, spec_id: str, tile_id: str, distances: xr.Dataset) -> None:
        """Store a piece of a matrix beside the partials, where a pool looks for what is done."""
        packed = pack(distances.assign_attrs(task=tile_id), consolidated=False)
        self.put(f"partials/{spec_id}/{tile_id}.zip", zipped(packed))

    def get_tile(self, spec_id: str, tile_id: str) -> xr.Dataset | None:
        """A piece of a matrix; None if it is not there as it was written, then it has to be made again."""
        data = self.get(f"partials/{spec_id}/{tile_id}.zip")
        try:
            found = None if data is None else unzip(data).load()
        except (DamagedError, RuntimeError, ValueError):
            return None
        return found if found is not None and found.attrs.get("task") == tile_id else None

    def forget_tiles(self, spec_id: str, mine: Collection[str]) -> None:
        """Remove pieces of a matrix that is stored by now, and those that nobody came back for."""
        for tile_id in self.names(f"partials/{spec_id}", ".zip"):
            path = f"partials/{spec_id}/{tile_id}.zip"
            if tile_id.startswith(TILE) and (tile_id in mine or self.age(path) > STALE):
                self.remove(path)

    def put_failures(self, spec_id: str, tasks: Iterable[Work], failed: Mapping[int, str]) -> None:
        """Record why tasks failed for good, by their index."""
        for task in tasks:
            if task.index in failed:
                record = {"task": task.id, "reason": redact(failed[task.index]), "at": now()}
                self.put_json(f"failures/{spec_id}/{task.id}.json", record)

    def forget_failures(self, spec_id: str, done: set[str]) -> None:
        """Take back what is said of tasks that have their partial by now."""
        for task_id in done & set(self.names(f"failures/{spec_id}", ".json")):
            self.remove(f"failures/{spec_id}/{task_id}.json")

    # -- VDNAs and distances -----------------------------------------------------------------------

    def put_vdna(self, vdna: VDNA, dataset: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Store a dataset's VDNA and make it the current version; returns its manifest.

        Other contents than those of the version before, or from other places, are a new version; the one before stays.
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
            self._made_anew(dataset, vdna.spec.extractor, vdna.spec.id)  # versions are counted from there

        def next_version(before: dict[str, Any] | None) -> dict[str, Any]:
            if before is None:
                return {**manifest, "version": 1, "versions": []}
            same = all(before.get(key) == manifest[key] for key in ("digest", "sources"))
            number = before["version"] + (not same)
            return {**manifest, "version": number, "versions": before["versions"] + [version_of(before)] * (not same)}

        return self._changed(manifest, next_version)

    def put_facts(self, manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Change what is said of a VDNA, such as its description; its numbers, and the record of its version, stay.
        Nothing is said where another version is the current one by now."""
        of_it = {key: manifest[key] for key in ("digest", "fingerprint")}

        def with_facts(current: dict[str, Any] | None) -> dict[str, Any]:
            found = dict(manifest) if current is None else current
            return {**found, **(facts if of_it.items() <= found.items() else {})}

        self._changed(manifest, with_facts)

    def recorded(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """A manifest with its record, a copy of it under a name of its own that never changes. That of a catalogue of
        before gets one here."""
        if "record" in manifest:
            return dict(manifest)
        return self._changed(manifest, lambda current: dict(manifest) if current is None else current)

    def restored(self, dataset: str, extractor: str, spec_id: str) -> bool:
        """Whether a manifest that is there, but damaged, could be made anew from the record of its version."""
        there = self.get(f"vdnas/{dataset}/{extractor}/{spec_id}.json") is not None
        return there and self._made_anew(dataset, extractor, spec_id)

    def _made_anew(self, dataset: str, extractor: str, spec_id: str) -> bool:
        """Whether the last version has a record, which is now the current manifest unless there is one."""
        last = self._last(dataset, extractor, spec_id)
        if last is not None:
            self._changed(last, lambda current: current or last)
        return last is not None

    def _changed(
        self, manifest: Mapping[str, Any], make: Callable[[dict[str, Any] | None], dict[str, Any]]
    ) -> dict[str, Any]:
        """Make what `make` returns of the current manifest the current one, and record it; returns it. Asked again
        where another run comes first. One that is damaged is taken as its version's record has it."""
        dataset, extractor, spec_id = (manifest[key] for key in ("dataset", "extractor", "spec"))
        folder, mine = f"vdnas/{dataset}/{extractor}", ""

        def changed(there: bytes | None) -> bytes:
            nonlocal mine
            before = None if there is None else self._known(dataset, extractor, spec_id, there)
            if before is not None and "record" not in before:
                before = self._record(folder, before)
            if mine and mine not in _records(before):  # another run has that number
                self.remove(mine)
            after = make(before)
            if "record" not in after:
                after = self._record(folder, after)
                mine = after["record"]["path"]
            return as_json(after)

        return dict(json.loads(change(self, f"{folder}/{spec_id}.json", changed)))

    def _record(self, folder: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a copy of a manifest under a name that is of its contents: the record of its version."""
        found = {"version": 1, "versions": [], **manifest}
        if "objects" not in found:  # of a catalogue of before
            found["objects"] = hashes(self.whole(group_path(manifest))[1])
        data = as_json(found)
        digest = hashlib.sha256(data).hexdigest()
        path = f"{folder}/versions/{manifest['spec']}-{found['version']}-{digest[:16]}.json"
        self.put(path, data)
        return {**found, "record": {"path": path, "sha256": digest}}

    def _known(self, dataset: str, extractor: str, spec_id: str, data: bytes) -> dict[str, Any] | None:
        """The current manifest, from its bytes; where these are damaged, what the record of the last version says."""
        try:
            return self.understood(data, dataset, extractor, spec_id)
        except DamagedError:
            return self._last(dataset, extractor, spec_id)

    def _last(self, dataset: str, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """What the record of the last version says; None if there was none."""
        folder = f"vdnas/{dataset}/{extractor}/versions"
        found = []
        for name in self.names(folder, ".json"):
            data = self.get(f"{folder}/{name}.json") if name.startswith(f"{spec_id}-") else None
            digest = hashlib.sha256(data or b"").hexdigest()
            if data is not None and name.endswith(f"-{digest[:16]}"):
                record = {"path": f"{folder}/{name}.json", "sha256": digest}
                found.append({**json.loads(data), "record": record})
        return max(found, key=lambda m: (m["version"], m["created"]), default=None)

    def put_distances(self, spec_id: str, extractor: str, distances: xr.Dataset, facts: Mapping[str, Any]) -> None:
        """Store a matrix and make it the current one. Those before stay for who is reading them, for a while."""
        folder, objects = f"distances/{extractor}/{spec_id}", pack(distances, consolidated=True)
        manifest = {"format": FORMAT, "extractor": extractor, "spec": spec_id, **facts, "objects": hashes(objects)}
        manifest["group"] = group_name(manifest["objects"])
        self.put_group(f"{folder}/{manifest['group']}", objects)
        self._record_distances(folder, manifest)

    def recorded_distances(self, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """The manifest of a matrix, with its record; None if there is no matrix."""
        found = self.distances_manifest(extractor, spec_id)
        if found is None or "record" in found:
            return found
        folder = f"distances/{extractor}/{spec_id}"  # of a catalogue of before
        return self._record_distances(
            folder, {**found, "objects": hashes(self.get_group(f"{folder}/{found['group']}"))}
        )

    def _record_distances(self, folder: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
        data = as_json(manifest)
        record = {"path": f"{folder}/{manifest['group']}.json", "sha256": hashlib.sha256(data).hexdigest()}
        self.put(record["path"], data)
        found = {**manifest, "record": record}
        self.put_json(f"{folder}/manifest.json", found)
        return found


def _records(manifest: Mapping[str, Any] | None) -> set[str]:
    """Where the records lie that a manifest names."""
    if manifest is None:
        return set()
    return {manifest["record"]["path"], *(version["manifest"]["path"] for version in manifest["versions"])}


def _noticed(said: Any, images: int) -> dict[str, int]:
    """What a partial says of so many images; no digest covers it."""
    most = {"archives": 1 << 62}
    if not isinstance(said, dict) or not all(type(n) is int and 0 <= n <= most.get(k, images) for k, n in said.items()):
        raise DamagedError("it says impossible numbers of what was noticed")
    return said
