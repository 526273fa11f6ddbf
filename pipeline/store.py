"""Every path of a catalogue, every read and every write.

    plans/DATASET/EXTRACTOR.json.gz            tasks of the dataset, as last planned
    ranges/NETWORK/ID.json, current            histogram axes of a network; the one in use
    partials/SPEC/TASK.zip                     one immutable partial per task, a Zarr group
    vdnas/DATASET/EXTRACTOR/DIGEST.zarr/       a dataset's VDNA, a Zarr group
    vdnas/DATASET/EXTRACTOR/SPEC.json          its manifest, which names the current one; written last
    distances/EXTRACTOR/SPEC/DIGEST.zarr/, manifest.json      the matrix, likewise
    site/                                      what people open

An object appears whole or not at all: a temporary file and a rename on a disk, a single PUT on an
object store. Readers see only what a manifest names, so a writer that dies leaves nothing half-seen.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import re
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec.core
import xarray as xr

from distributions import VDNA, ActivationRanges, Histogram, IncompatibleError, Ranges, Spec
from pipeline.data.sources import Task
from pipeline.errors import UserError
from pipeline.groups import FORMAT, DamagedError, from_dataset, pack, to_dataset, unzip, zipped
from pipeline.planning import Plan

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of datasets and extractors: they become folder names and appear in pages."""


class Store:
    """A catalogue on any fsspec file system. Cheap to make; travels to workers as URL and options."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.options = dict(options or {})
        try:
            self.fs, root = fsspec.core.url_to_fs(url, **self.options)
        except (ImportError, ValueError) as error:
            raise UserError(f"catalogue={url}: cannot open this kind of URL ({error})") from None
        self.root = root.rstrip("/")
        self._local = "file" in ([self.fs.protocol] if isinstance(self.fs.protocol, str) else self.fs.protocol)

    def __reduce__(self) -> tuple[type[Store], tuple[str, dict[str, Any]]]:
        return Store, (self.url, self.options)

    # -- objects ---------------------------------------------------------------------------------

    def put(self, path: str, data: bytes) -> None:
        """Write an object whole: it has its old or its new content at any moment."""
        full = f"{self.root}/{path}"
        try:
            if self._local:
                _put_on_disk(Path(full), data)
            else:
                self.fs.pipe_file(full, data)
        except OSError as error:
            raise UserError(f"catalogue={self.url}: cannot be written ({error})") from None

    def get(self, path: str) -> bytes | None:
        """An object's content, or None if it is not there."""
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{path}"))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def put_json(self, path: str, content: Any) -> None:
        self.put(path, json.dumps(content, indent=1, ensure_ascii=False).encode())

    def get_json(self, path: str) -> Any:
        """What `put_json` wrote, or None; `DamagedError` names an object that is no JSON."""
        data = self.get(path)
        try:
            return None if data is None else json.loads(data)
        except ValueError as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error

    def names(self, folder: str, ending: str = "") -> list[str]:
        """Names of what lies directly inside a folder, sorted, without their `ending`."""
        full = f"{self.root}/{folder}".rstrip("/")
        try:
            found = self.fs.ls(full, detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != full)
        return sorted(name.removesuffix(ending) for name in names if name.endswith(ending))

    # -- plans and ranges ------------------------------------------------------------------------

    def put_plan(self, plan: Plan) -> None:
        """Make a plan the dataset's; writes nothing if it is already."""
        path = f"plans/{plan.dataset['name']}/{plan.network.extractor}.json.gz"
        data = gzip.compress(json.dumps(plan.to_dict()).encode(), mtime=0)
        if self.get(path) != data:
            self.put(path, data)

    def get_plan(self, dataset: str, extractor: str) -> Plan:
        """The plan of a dataset; `UserError` if there is none yet."""
        data = self.get(f"plans/{dataset}/{extractor}.json.gz")
        if data is None:
            raise UserError(f"no plan for dataset {dataset} and extractor {extractor} yet: add plan to stages=[...]")
        return Plan.from_dict(json.loads(gzip.decompress(data)))

    def put_ranges(self, network: str, ranges: Ranges, current: bool) -> None:
        path = f"ranges/{network}/{ranges.id}.json"
        if self.get(path) is None:
            self.put(path, ranges.to_json().encode())
        if current:
            self.put(f"ranges/{network}/current", ranges.id.encode())

    def get_ranges(self, network: str, ranges_id: str | None = None) -> Ranges | None:
        """Ranges by id, or those in use for a network; None if there are none."""
        if ranges_id is None:
            current = self.get(f"ranges/{network}/current")
            if current is None:
                return None
            ranges_id = current.decode()
        data = self.get(f"ranges/{network}/{ranges_id}.json")
        return None if data is None else Ranges.from_json(data.decode())

    # -- partials --------------------------------------------------------------------------------

    def partials(self, spec_id: str) -> set[str]:
        """Ids of the tasks whose partial is there."""
        return set(self.names(f"partials/{spec_id}", ".zip"))

    def put_partial(self, vdna: VDNA, task: Task, provenance: Mapping[str, Any]) -> None:
        objects = pack(to_dataset(vdna, {"provenance": json.dumps(provenance)}), consolidated=False)
        self.put(f"partials/{vdna.spec.id}/{task.id}.zip", zipped(objects))

    def get_partial(self, spec: Spec, task: Task) -> tuple[VDNA, dict[str, Any]]:
        """A partial and its provenance. One that is not as it was written is removed, to be made again, and
        `DamagedError` names it."""
        path = f"partials/{spec.id}/{task.id}.zip"
        data = self.get(path)
        if data is None:
            raise UserError(f"task {task.index} has no partial yet: add extract to stages=[...]")
        try:
            dataset = unzip(data)
            return from_dataset(dataset, spec), json.loads(dataset.attrs["provenance"])
        except (zipfile.BadZipFile, IncompatibleError, DamagedError, KeyError, ValueError, OSError) as error:
            self.fs.rm_file(f"{self.root}/{path}")
            raise DamagedError(
                f"{path} is damaged ({error}) and was removed: the same command makes it again"
            ) from error

    # -- VDNAs and distances -----------------------------------------------------------------------

    def put_vdna(self, vdna: VDNA, dataset: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Store a dataset's VDNA and make it the current one; returns its manifest."""
        folder = f"vdnas/{dataset}/{vdna.spec.extractor}"
        manifest = {"format": FORMAT, "dataset": dataset, **summary(vdna), **facts, "created": now()}
        manifest["program"] = f"vdna-catalogue {importlib.metadata.version('vdna-catalogue')}"
        attributes = {name: manifest[name] for name in ("dataset", "fingerprint", "images", "created", "program")}
        attributes["provenance"] = json.dumps(manifest["provenance"])
        packed = to_dataset(vdna, attributes)
        manifest["digest"] = packed.attrs["digest"]
        manifest["group"] = f"{manifest['digest'][:16]}.zarr"
        self._put_group(f"{folder}/{manifest['group']}", pack(packed, consolidated=True))
        self.put_json(f"{folder}/{vdna.spec.id}.json", manifest)
        return manifest

    def put_facts(self, manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Change what is said of a VDNA, such as its description; its numbers stay."""
        folder = f"vdnas/{manifest['dataset']}/{manifest['extractor']}"
        self.put_json(f"{folder}/{manifest['spec']}.json", {**manifest, **facts})

    def manifest(self, dataset: str, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """The manifest of a dataset's VDNA of that spec, or None if there is none."""
        path = f"vdnas/{dataset}/{extractor}/{spec_id}.json"
        found: dict[str, Any] | None = self.get_json(path)
        if found is not None and found["format"] > FORMAT:
            raise UserError(f"{self.url}/{path} was written by a newer version of this program; update it")
        return found

    def manifests(self) -> list[dict[str, Any]]:
        """The manifest of every VDNA, by dataset, extractor and date."""
        keys = [
            (dataset, extractor, spec_id)
            for dataset in self.names("vdnas")
            for extractor in self.names(f"vdnas/{dataset}")
            for spec_id in self.names(f"vdnas/{dataset}/{extractor}", ".json")
        ]
        found = [manifest for key in keys if (manifest := self.manifest(*key)) is not None]
        return sorted(found, key=lambda m: (m["dataset"], m["extractor"], m["created"]))

    def get_vdna(self, manifest: Mapping[str, Any]) -> VDNA:
        """The VDNA a manifest names, whole; `DamagedError` if its contents are not those it was stored with."""
        path = f"vdnas/{manifest['dataset']}/{manifest['extractor']}/{manifest['group']}"
        try:
            return from_dataset(self._open_group(path).load())
        except (DamagedError, FileNotFoundError, KeyError, ValueError) as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error

    def put_distances(self, spec_id: str, extractor: str, distances: xr.Dataset, facts: Mapping[str, Any]) -> None:
        """Store a matrix and make it the current one. The one before stays for who is reading it; older ones go."""
        folder, group = f"distances/{extractor}/{spec_id}", f"{facts['digest'][:16]}.zarr"
        before = self.distances_manifest(extractor, spec_id)
        self._put_group(f"{folder}/{group}", pack(distances, consolidated=True))
        self.put_json(f"{folder}/manifest.json", {"format": FORMAT, **facts, "group": group})
        for old in set(self.names(folder)) - {group, "manifest.json", before["group"] if before else ""}:
            self.fs.rm(f"{self.root}/{folder}/{old}", recursive=True)

    def distances_manifest(self, extractor: str, spec_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.get_json(f"distances/{extractor}/{spec_id}/manifest.json")
        return found

    def get_distances(self, extractor: str, spec_id: str) -> xr.Dataset | None:
        """All distances between the VDNAs of a spec, or None before the first comparison."""
        manifest = self.distances_manifest(extractor, spec_id)
        if manifest is None:
            return None
        return self._open_group(f"distances/{extractor}/{spec_id}/{manifest['group']}").load()

    def _put_group(self, path: str, objects: Mapping[str, bytes]) -> None:
        for name, data in objects.items():
            self.put(f"{path}/{name}", data)

    def _open_group(self, path: str) -> xr.Dataset:
        full = f"{self.root}/{path}" if self._local else self.fs.unstrip_protocol(f"{self.root}/{path}")
        dataset: xr.Dataset = xr.open_zarr(full, storage_options=None if self._local else self.options, chunks=None)
        return dataset


def _put_on_disk(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def summary(vdna: VDNA) -> dict[str, Any]:
    """What an index says of a VDNA."""
    spec, ledger = vdna.spec, vdna.ledger
    return {
        "extractor": spec.extractor,
        "images": vdna.images,
        "skipped": sum(ledger.skipped.values()),
        "skipped_by_reason": ledger.skipped,
        "damaged_shards": len(ledger.damaged),
        "shards": len(ledger),
        "architecture": spec.architecture,
        "weights": spec.weights,
        "preprocessing": spec.preprocessing,
        "precision": spec.precision,
        "distributions": list(spec.distributions),
        "ranges": spec.ranges.id if spec.ranges and spec.needs_ranges else "",
        "network": spec.network,
        "spec": spec.id,
        "layers": dict(spec.layers),
        **_flows(vdna),
    }


def _flows(vdna: VDNA) -> dict[str, Any]:
    """What the distributions could not take as it was: the share of values clamped, and values not finite."""
    flows: dict[str, Any] = {"clamped_share": 0.0, "not_finite": 0}
    if vdna.has(Histogram):
        state = vdna.find(Histogram).state()
        clamped = int(state["histogram_below"].sum() + state["histogram_above"].sum())
        flows["clamped_share"] = clamped / max(int(state["histogram"].sum()), 1)
        flows["not_finite"] = int(state["histogram_nan"].sum())
    if vdna.has(ActivationRanges):
        flows["not_finite"] = int(vdna.find(ActivationRanges).nonfinite.sum())
    return flows
