"""What a catalogue says of its VDNAs and matrices, and parts of them; reading alone, without torch, Ray or Hydra.

    vdnas/DATASET/EXTRACTOR/GROUP.zarr/        a VDNA, a Zarr group named by its contents
    vdnas/DATASET/EXTRACTOR/SPEC.json          the manifest of its current version, written last
    vdnas/DATASET/EXTRACTOR/versions/SPEC-N-HASH.json     that of each version, which never changes
    distances/EXTRACTOR/SPEC/GROUP.zarr/, manifest.json      the matrix, likewise

A manifest has the SHA-256 of every object of its group: readers see only what it names, and know what they read.
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

from pipeline.errors import DamagedError, UserError
from pipeline.formats.groups import FORMAT, from_dataset, opened
from pipeline.formats.rows import Rows, hashes
from pipeline.storage.folder import AT_ONCE, Folder

if TYPE_CHECKING:
    from distributions import VDNA

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of datasets and extractors: they become folder names and appear in pages."""
HASH = re.compile(r"[0-9a-f]{16}")
"""What ranges and groups are named by."""
CHANGING = ("description", "licence", "url", "extractor_licence", "versions", "thumbnails")
"""What is said of a VDNA without being part of a version's record."""
STATED = {"fingerprint", "digest", "created", "images", "skipped"}
"""What every manifest of a VDNA says, among other things."""


class Manifests(Folder):
    """A catalogue, to be read."""

    def manifest(self, dataset: str, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """The manifest of a dataset's VDNA of that spec, or None if there is none; a damaged one is as good as none."""
        data = self.get(f"vdnas/{dataset}/{extractor}/{spec_id}.json")
        try:
            return None if data is None else self.understood(data, dataset, extractor, spec_id)
        except DamagedError as error:
            log.warning("%s; the dataset counts as not there until it is run again", error)
            return None

    def understood(self, data: bytes, dataset: str, extractor: str, spec_id: str) -> dict[str, Any]:
        """The manifest of a dataset's VDNA of that spec from its bytes, or `DamagedError`."""
        path = f"vdnas/{dataset}/{extractor}/{spec_id}.json"
        try:
            found = self.checked(json.loads(data), path)
        except ValueError as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error
        said = tuple(found.get(key) for key in ("dataset", "extractor", "spec"))
        if said != (dataset, extractor, spec_id) or not found.keys() >= STATED:
            raise DamagedError(f"{self.url}/{path} is damaged: it is the manifest of something else")
        return found

    def _manifest(self, path: str) -> dict[str, Any] | None:
        found = self.get_json(path)
        return None if found is None else self.checked(found, path)

    def checked(self, found: Any, path: str) -> dict[str, Any]:
        """A manifest whose group lies where it should, or `DamagedError`."""
        if not isinstance(found, dict) or not isinstance(found.get("format"), int):
            raise DamagedError(f"{self.url}/{path} is damaged: it is no manifest")
        if found["format"] > FORMAT:
            raise UserError(f"{self.url}/{path} was written by a newer version of this program; update it")
        if not HASH.fullmatch(str(found.get("group")).removesuffix(".zarr")):
            raise DamagedError(f"{self.url}/{path} is damaged: it names no group")
        return found

    def manifests(self) -> list[dict[str, Any]]:
        """The manifest of every VDNA's current version, by dataset, extractor and date."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            datasets = self.names("vdnas")
            folders = zip(datasets, threads.map(lambda d: self.names(f"vdnas/{d}"), datasets), strict=True)
            pairs = [(dataset, extractor) for dataset, extractors in folders for extractor in extractors]
            specs = zip(pairs, threads.map(lambda p: self.names(f"vdnas/{p[0]}/{p[1]}", ".json"), pairs), strict=True)
            keys = [(*pair, spec_id) for pair, names in specs for spec_id in names]
            found = [manifest for manifest in threads.map(lambda key: self.manifest(*key), keys) if manifest]
        return sorted(found, key=lambda m: (m["dataset"], m["extractor"], m["created"]))

    def get_vdna(self, manifest: Mapping[str, Any]) -> VDNA:
        """The VDNA a manifest names, whole; `DamagedError` if its contents are not those it was stored with."""
        return self.whole(group_path(manifest))[0]

    def get_rows(self, manifest: Mapping[str, Any]) -> Rows:
        """A reader of parts of the VDNA a manifest names, which checks each object that it reads."""
        path = group_path(manifest)
        # A manifest of before had no hash of each object: those of the whole, found to be what they were.
        objects = manifest["objects"] if "objects" in manifest else hashes(self.whole(path)[1])
        return Rows(lambda name: self.get(f"{path}/{name}"), objects, f"{self.url}/{path}")

    def whole(self, path: str) -> tuple[VDNA, dict[str, bytes]]:
        """The VDNA in a group, found to have the digests it was stored with, and the group's objects."""
        try:
            objects = self.get_group(path)
            return from_dataset(opened(objects)), objects
        except (DamagedError, KeyError, ValueError) as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error

    def distances_manifest(self, extractor: str, spec_id: str) -> dict[str, Any] | None:
        """What the current matrix of a spec was made of, or None before the first comparison."""
        found = self._manifest(f"distances/{extractor}/{spec_id}/manifest.json")
        return None if found is None else {"extractor": extractor, "spec": spec_id, **found}

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
            return opened(objects).load()
        except (DamagedError, KeyError, ValueError, RuntimeError) as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error


def group_path(manifest: Mapping[str, Any]) -> str:
    """Where the group lies that a manifest names."""
    return f"vdnas/{manifest['dataset']}/{manifest['extractor']}/{manifest['group']}"


def group_name(objects: Mapping[str, str]) -> str:
    """The name of a group, by the SHA-256 of its objects: what has one name has the same bytes."""
    return f"{hashlib.sha256(json.dumps(sorted(objects.items())).encode()).hexdigest()[:16]}.zarr"


def version_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a version in the list of them."""
    said = {key: manifest[key] for key in ("version", "created", "images", "digest")}
    return {**said, "manifest": manifest["record"]}


def contents(members: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over the contents of VDNAs: what a matrix between them is of."""
    return hashlib.sha256(json.dumps([(m["dataset"], m["digest"]) for m in members]).encode()).hexdigest()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
