"""Reading the manifests of a catalogue, and the VDNAs and matrices that they name.

    vdnas/DATASET/EXTRACTOR/GROUP.zarr/                      a VDNA: a Zarr group named by the hash of its contents
    vdnas/DATASET/EXTRACTOR/SPEC.json                        the manifest of the current version, written last
    vdnas/DATASET/EXTRACTOR/versions/SPEC-N-HASH.json        the manifest of version N, never changed
    distances/EXTRACTOR/SPEC/GROUP.zarr/, manifest.json      the matrix and its manifest

A manifest has the SHA-256 of every object of its group. Readers use only objects that a manifest names, and check their
hashes. This module needs neither Ray nor Hydra, and imports torch only to read whole VDNAs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import xarray as xr

from pipeline.errors import NEWER, DamagedError, UserError
from pipeline.formats.datasets import FORMAT, from_dataset
from pipeline.formats.groups import open_group
from pipeline.formats.rows import Rows, hashes
from pipeline.storage.folder import AT_ONCE, ObjectStore

if TYPE_CHECKING:
    from distributions import VDNA

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of datasets and extractors. They become names of folders and appear on the site."""
HASH = re.compile(r"[0-9a-f]{16}")
"""Names of groups and of histogram axes."""
CHANGING = ("description", "licence", "url", "extractor_licence", "versions", "thumbnails")
"""Keys of a manifest that may change without a new version."""
REQUIRED = {"fingerprint", "digest", "created", "images", "skipped"}
"""Keys that every manifest of a VDNA has, among others."""


class Manifests(ObjectStore):
    """The manifests, VDNAs and matrices of a catalogue, read-only."""

    def manifest(self, dataset: str, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """The manifest of a dataset's VDNA with this spec. None if it does not exist or, with a warning, is damaged."""
        data = self.get(f"vdnas/{dataset}/{extractor}/{spec_id}.json")
        try:
            return None if data is None else self.parse_manifest(data, dataset, extractor, spec_id)
        except DamagedError as error:
            log.warning("%s; the dataset counts as not there until it is run again", error)
            return None

    def parse_manifest(self, data: bytes, dataset: str, extractor: str, spec_id: str) -> dict[str, Any]:
        """The manifest in `data`. Raises `DamagedError` if it is not one of this dataset, extractor and spec."""
        path = f"vdnas/{dataset}/{extractor}/{spec_id}.json"
        try:
            manifest = self.check_manifest(json.loads(data), path)
        except ValueError as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error
        names = tuple(manifest.get(key) for key in ("dataset", "extractor", "spec"))
        if names != (dataset, extractor, spec_id) or not manifest.keys() >= REQUIRED:
            raise DamagedError(f"{self.url}/{path} is damaged: it is the manifest of something else")
        return manifest

    def _manifest(self, path: str) -> dict[str, Any] | None:
        value = self.get_json(path)
        return None if value is None else self.check_manifest(value, path)

    def check_manifest(self, value: Any, path: str) -> dict[str, Any]:
        """Return `value`, a manifest read from `path`. Raises `DamagedError` if it is none or does not name a group,
        `UserError` if a newer version of this program wrote it."""
        if not isinstance(value, dict) or not isinstance(value.get("format"), int):
            raise DamagedError(f"{self.url}/{path} is damaged: it is no manifest")
        if value["format"] > FORMAT:
            raise UserError(f"{self.url}/{path}: {NEWER}")
        if not HASH.fullmatch(str(value.get("group")).removesuffix(".zarr")):
            raise DamagedError(f"{self.url}/{path} is damaged: it names no group")
        return value

    def manifests(self) -> list[dict[str, Any]]:
        """The manifest of every VDNA's current version, sorted by dataset, extractor and date."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            datasets = self.names("vdnas")
            folders = zip(datasets, threads.map(lambda d: self.names(f"vdnas/{d}"), datasets), strict=True)
            pairs = [(dataset, extractor) for dataset, extractors in folders for extractor in extractors]
            specs = zip(pairs, threads.map(lambda p: self.names(f"vdnas/{p[0]}/{p[1]}", ".json"), pairs), strict=True)
            keys = [(*pair, spec_id) for pair, names in specs for spec_id in names]
            manifests = [manifest for manifest in threads.map(lambda key: self.manifest(*key), keys) if manifest]
        return sorted(manifests, key=lambda m: (m["dataset"], m["extractor"], m["created"]))

    def get_vdna(self, manifest: Mapping[str, Any]) -> VDNA:
        """The whole VDNA that a manifest names. Raises `DamagedError` if its contents differ from what was stored."""
        return self.whole(group_path(manifest))[0]

    def get_rows(self, manifest: Mapping[str, Any]) -> Rows:
        """A reader for parts of the VDNA that a manifest names. It checks each object that it reads."""
        path = group_path(manifest)
        # Old manifests have no hashes of single objects. The whole VDNA is read and checked instead, and hashed.
        objects = manifest["objects"] if "objects" in manifest else hashes(self.whole(path)[1])
        return Rows(lambda name: self.get(f"{path}/{name}"), objects, f"{self.url}/{path}")

    def whole(self, path: str) -> tuple[VDNA, dict[str, bytes]]:
        """The VDNA in a group, with its digests checked, and the group's objects."""
        try:
            objects = self.get_group(path)
            return from_dataset(open_group(objects)), objects
        except UserError as error:
            raise UserError(f"{self.url}/{path}: {error}") from error
        except (DamagedError, KeyError, ValueError) as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error

    def distances_manifest(self, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """The manifest of the current matrix of a spec, or None before the first comparison."""
        manifest = self._manifest(f"distances/{extractor}/{spec_id}/manifest.json")
        return None if manifest is None else {"extractor": extractor, "spec": spec_id, **manifest}

    def get_distances(self, extractor: str, spec_id: str) -> xr.Dataset | None:
        """All distances between the VDNAs of a spec, or None before the first comparison."""
        manifest = self.distances_manifest(extractor, spec_id)
        if manifest is None:
            return None
        path = f"distances/{extractor}/{spec_id}/{manifest['group']}"
        try:
            objects = self.get_group(path)
            if manifest.get("objects", hashes(objects)) != hashes(objects):
                raise DamagedError("its objects are not those that were written")
            return open_group(objects).load()
        except (DamagedError, KeyError, ValueError, RuntimeError) as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error


def group_path(manifest: Mapping[str, Any]) -> str:
    """The path of the group that a manifest of a VDNA names."""
    return f"vdnas/{manifest['dataset']}/{manifest['extractor']}/{manifest['group']}"


def group_name(objects: Mapping[str, str]) -> str:
    """The name of a group, made from the SHA-256 of its objects: groups of the same name have the same bytes."""
    return f"{hashlib.sha256(json.dumps(sorted(objects.items())).encode()).hexdigest()[:16]}.zarr"


def version_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a version in a manifest's list of versions."""
    return {
        **{key: manifest[key] for key in ("version", "created", "images", "digest")},
        "manifest": manifest["record"],
    }


def contents(members: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over the names and digests of VDNAs. It identifies the contents of the matrix between them."""
    return hashlib.sha256(json.dumps([(m["dataset"], m["digest"]) for m in members]).encode()).hexdigest()


def now() -> str:
    """The current time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
