"""Every path of a catalogue, every read and every write.

    plans/DATASET/EXTRACTOR.json.gz            tasks of the dataset, as last planned
    ranges/NETWORK/ID.json, current            histogram axes of a network; the one in use
    partials/SPEC/TASK.zip                     one immutable partial per task, a Zarr group
    partials/SPEC/tile-ID.zip                  a piece of a matrix, until the whole is there
    failures/SPEC/TASK.json                    why a task has none, though it was tried
    vdnas/DATASET/EXTRACTOR/DIGEST.zarr/       a dataset's VDNA, a Zarr group
    vdnas/DATASET/EXTRACTOR/SPEC.json          its manifest, which names the current one; written last
    distances/EXTRACTOR/SPEC/DIGEST.zarr/, manifest.json      the matrix, likewise
    site/                                      what people open

Readers see only what a manifest names, so a writer that dies leaves nothing half-seen.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import xarray as xr

from distributions import VDNA, IncompatibleError, Ranges, Spec
from pipeline.data.shards import Work
from pipeline.errors import DamagedError, UserError
from pipeline.folder import AT_ONCE, Folder
from pipeline.groups import FORMAT, from_dataset, opened, pack, to_dataset, unzip, zipped
from pipeline.objects import hide
from pipeline.planning import Plan
from pipeline.rows import Rows, hashes
from pipeline.summary import summary

log = logging.getLogger(__name__)

STALE = timedelta(hours=1)
"""Age at which a group that no manifest names was left behind: one being written now is younger."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of datasets and extractors: they become folder names and appear in pages."""


STATED = {"fingerprint", "digest", "created", "images", "skipped"}
"""What every manifest of a VDNA says, among other things."""
HASH = re.compile(r"[0-9a-f]{16}")
"""What ranges and groups are named by."""
TILE = "tile-"
"""What the names of pieces of a matrix begin with."""


class Store(Folder):
    """A catalogue: a folder of objects with these names."""

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

    def put_ranges(self, network: str, ranges: Ranges) -> None:
        """Store ranges under their id; those that are the network's first are from now on in use."""
        self.put_new(f"ranges/{network}/{ranges.id}.json", ranges.to_json().encode())
        self.put_new(f"ranges/{network}/current", ranges.id.encode())

    def get_ranges(self, network: str, ranges_id: str | None = None) -> Ranges | None:
        """Ranges by id, or those in use for a network; None if there are none."""
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
            ranges = Ranges.from_json(data.decode())
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
        dataset = to_dataset(vdna, {"task": task_id, "provenance": json.dumps(provenance)})
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
            return from_dataset(dataset, spec), dict(json.loads(dataset.attrs["provenance"]))
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
                record = {"task": task.id, "reason": hide(failed[task.index]), "at": now()}
                self.put_json(f"failures/{spec_id}/{task.id}.json", record)

    def forget_failures(self, spec_id: str, done: set[str]) -> None:
        """Take back what is said of tasks that have their partial by now."""
        for task_id in done & set(self.names(f"failures/{spec_id}", ".json")):
            self.remove(f"failures/{spec_id}/{task_id}.json")

    # -- VDNAs and distances -----------------------------------------------------------------------

    def put_vdna(self, vdna: VDNA, dataset: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Store a dataset's VDNA and make it the current one; returns its manifest."""
        for name in (dataset, vdna.spec.extractor):
            if not NAME.fullmatch(name):
                raise UserError(f"{name!r} cannot be a name: use letters, digits, '.', '_' and '-' (at most 128)")
        folder = f"vdnas/{dataset}/{vdna.spec.extractor}"
        manifest = {"format": FORMAT, "dataset": dataset, **summary(vdna), **facts, "created": now()}
        manifest["program"] = f"vdna-catalogue {importlib.metadata.version('vdna-catalogue')}"
        attributes = {name: manifest[name] for name in ("dataset", "fingerprint", "images", "created", "program")}
        attributes["provenance"] = json.dumps(manifest["provenance"])
        packed = to_dataset(vdna, attributes)
        manifest["digest"] = packed.attrs["digest"]
        whole = f"{packed.attrs['digest']}{packed.attrs['sources']}"
        manifest["group"] = f"{hashlib.sha256(whole.encode()).hexdigest()[:16]}.zarr"
        objects = pack(packed, consolidated=True)
        manifest["objects"] = hashes(objects)
        self.put_group(f"{folder}/{manifest['group']}", objects)
        self.put_json(f"{folder}/{vdna.spec.id}.json", manifest)
        return manifest

    def put_facts(self, manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Change what is said of a VDNA, such as its description; its numbers stay."""
        folder = f"vdnas/{manifest['dataset']}/{manifest['extractor']}"
        self.put_json(f"{folder}/{manifest['spec']}.json", {**manifest, **facts})

    def manifest(self, dataset: str, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """The manifest of a dataset's VDNA of that spec, or None if there is none; a damaged one is as good as none."""
        path = f"vdnas/{dataset}/{extractor}/{spec_id}.json"
        try:
            found = self._manifest(path)
            said = found and tuple(found.get(key) for key in ("dataset", "extractor", "spec"))
            if said not in (None, (dataset, extractor, spec_id)) or (found and not found.keys() >= STATED):
                raise DamagedError(f"{self.url}/{path} is damaged: it is the manifest of something else")
        except DamagedError as error:
            log.warning("%s; the dataset counts as not there until it is run again", error)
            return None
        return found

    def _manifest(self, path: str) -> dict[str, Any] | None:
        """A manifest whose group lies where it should."""
        found = self.get_json(path)
        if found is None:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("format"), int):
            raise DamagedError(f"{self.url}/{path} is damaged: it is no manifest")
        if found["format"] > FORMAT:
            raise UserError(f"{self.url}/{path} was written by a newer version of this program; update it")
        if not HASH.fullmatch(str(found.get("group")).removesuffix(".zarr")):
            raise DamagedError(f"{self.url}/{path} is damaged: it names no group")
        return found

    def manifests(self) -> list[dict[str, Any]]:
        """The manifest of every VDNA, by dataset, extractor and date."""
        keys = [
            (dataset, extractor, spec_id)
            for dataset in self.names("vdnas")
            for extractor in self.names(f"vdnas/{dataset}")
            for spec_id in self.names(f"vdnas/{dataset}/{extractor}", ".json")
        ]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            found = [
                manifest for manifest in threads.map(lambda key: self.manifest(*key), keys) if manifest is not None
            ]
        return sorted(found, key=lambda m: (m["dataset"], m["extractor"], m["created"]))

    def get_vdna(self, manifest: Mapping[str, Any]) -> VDNA:
        """The VDNA a manifest names, whole; `DamagedError` if its contents are not those it was stored with."""
        return self._whole(group_path(manifest))[0]

    def get_rows(self, manifest: Mapping[str, Any]) -> Rows:
        """A reader of parts of the VDNA a manifest names, which checks each object that it reads."""
        path = group_path(manifest)
        # A manifest of before had no hash of each object: those of the whole, found to be what they were.
        objects = manifest["objects"] if "objects" in manifest else hashes(self._whole(path)[1])
        return Rows(lambda name: self.get(f"{path}/{name}"), objects, f"{self.url}/{path}")

    def _whole(self, path: str) -> tuple[VDNA, dict[str, bytes]]:
        try:
            objects = self.get_group(path)
            return from_dataset(opened(objects)), objects
        except (DamagedError, KeyError, ValueError) as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error

    def put_distances(self, spec_id: str, extractor: str, distances: xr.Dataset, facts: Mapping[str, Any]) -> None:
        """Store a matrix and make it the current one. The one before stays for who is reading it; older ones go."""
        folder, group = f"distances/{extractor}/{spec_id}", f"{facts['digest'][:16]}.zarr"
        before = self.distances_manifest(extractor, spec_id)
        self.put_group(f"{folder}/{group}", pack(distances, consolidated=True))
        self.put_json(f"{folder}/manifest.json", {"format": FORMAT, **facts, "group": group})
        kept = {group, before["group"] if before else ""}
        for old in set(self.names(folder, ".zarr")) - {name.removesuffix(".zarr") for name in kept}:
            path = f"{folder}/{old}.zarr"
            if self.age(f"{path}/zarr.json") > STALE:
                self.remove_group(path)

    def distances_manifest(self, extractor: str, spec_id: str) -> dict[str, Any] | None:
        return self._manifest(f"distances/{extractor}/{spec_id}/manifest.json")

    def get_distances(self, extractor: str, spec_id: str) -> xr.Dataset | None:
        """All distances between the VDNAs of a spec, or None before the first comparison."""
        manifest = self.distances_manifest(extractor, spec_id)
        if manifest is None:
            return None
        path = f"distances/{extractor}/{spec_id}/{manifest['group']}"
        try:
            return opened(self.get_group(path)).load()
        except (DamagedError, KeyError, ValueError, RuntimeError) as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error


def group_path(manifest: Mapping[str, Any]) -> str:
    """Where the group lies that a manifest names."""
    return f"vdnas/{manifest['dataset']}/{manifest['extractor']}/{manifest['group']}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
