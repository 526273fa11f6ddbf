"""The index: one object that says what a catalogue holds, and one that says which index is the current one.

    catalogue.json                  the pointer: the only object of a published catalogue that changes, written last
    index/HASH.json.gz              specs, a row per VDNA, matrices
    index/schema-2.json             its JSON schema

    index = read(Folder("https://host/catalogue"))        # two requests; None where nothing was published
    index["vdnas"][0]["images"]

What the index names has names of its own that no other contents ever get: whoever has read an old index goes on with
the old catalogue, whatever is published meanwhile.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.resources
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from distributions.comparison import metrics_of
from distributions.distances import UNITS
from pipeline.errors import DamagedError, UserError
from pipeline.formats.groups import damage
from pipeline.formats.manifests import NAME, contents, group_path, now, version_of
from pipeline.storage.folder import Folder

FORMAT = 2
"""Of the index. Catalogues of before, which have none, count as 1: they are read by listing their manifests."""
POINTER = "catalogue.json"
MAX_POINTER = 1 << 20
MAX_BYTES = 1 << 30
"""Of an index when it is unpacked; ten thousand VDNAs take 30 MiB."""
SPEC = (
    *("extractor", "architecture", "weights", "preprocessing", "precision", "distributions", "positions", "ranges"),
    *("network", "layers", "extractor_licence"),
)
FACTS = (
    *("dataset", "spec", "version", "description", "licence", "url", "images", "skipped", "skipped_by_reason"),
    *("damaged_shards", "shards", "clamped_share", "not_finite", "fingerprint", "digest", "created", "bytes"),
    *("versions", "provenance", "program", "thumbnails"),
)


def make(manifests: Sequence[Mapping[str, Any]], matrices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The index of these VDNAs and the matrices between them. A matrix with other versions than these is left out."""
    specs = {m["spec"]: {key: m[key] for key in SPEC if key in m} for m in manifests}
    places = {(m["dataset"], m["spec"]): place for place, m in enumerate(manifests)}
    listed = []
    for matrix in matrices:
        members = [places.get((dataset, matrix["spec"]), -1) for dataset in matrix["datasets"]]
        if -1 not in members and contents([manifests[place] for place in members]) == matrix["digest"]:
            listed.append(_of_matrix(matrix, members, metrics_of(specs[matrix["spec"]]["distributions"])))
    return {
        "format": FORMAT,
        "created": max((m["created"] for m in (*manifests, *matrices)), default=""),
        "program": f"vdna-catalogue {importlib.metadata.version('vdna-catalogue')}",
        "specs": specs,
        "vdnas": [_of_vdna(manifest) for manifest in manifests],
        "matrices": listed,
    }


def _of_vdna(manifest: Mapping[str, Any]) -> dict[str, Any]:
    row = {"version": 1, "versions": [], "bytes": None, **manifest}
    record = manifest.get("record")
    versions = [*row["versions"], *([version_of(manifest)] if record else [])]
    row = {key: row[key] for key in FACTS if key in row}
    return {**row, "versions": versions, "group": group_path(manifest), "manifest": record}


def _of_matrix(matrix: Mapping[str, Any], members: list[int], metrics: Sequence[str]) -> dict[str, Any]:
    folder = f"distances/{matrix['extractor']}/{matrix['spec']}"
    return {
        "spec": matrix["spec"],
        "members": members,
        "group": f"{folder}/{matrix['group']}",
        "manifest": matrix.get("record"),
        "metrics": list(metrics),
        "units": {metric: UNITS[metric] for metric in metrics},
        "created": matrix["created"],
    }


def packed(content: Any) -> bytes:
    """JSON, gzipped; the same bytes for the same content."""
    return gzip.compress(json.dumps(content, ensure_ascii=False).encode(), compresslevel=9, mtime=0)


def named(folder: str, ending: str, data: bytes) -> dict[str, Any]:
    """Where an object that never changes lies, by its contents, and what it is checked by."""
    digest = hashlib.sha256(data).hexdigest()
    return {"path": f"{folder}/{digest[:16]}{ending}", "sha256": digest, "bytes": len(data)}


def pointer(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What `catalogue.json` says: its parts, and a hash of itself."""
    content = {"format": FORMAT, **parts, "created": now()}
    return {**content, "digest": _digest(content)}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_pointer(folder: Folder) -> dict[str, Any] | None:
    """The pointer, or None where nothing was published."""
    data = folder.get_known(POINTER, most=MAX_POINTER)
    return None if data is None else pointer_of(folder, data)


def pointer_of(folder: Folder, data: bytes) -> dict[str, Any]:
    """The pointer, from its bytes; `DamagedError` if it is not what was written."""
    try:
        found = json.loads(data)
        said = {key: value for key, value in found.items() if key != "digest"}
        if found["format"] > FORMAT:
            raise UserError(f"catalogue={folder.url}: written by a newer version of this program; update it")
        if found["digest"] != _digest(said) or not isinstance(found["index"]["path"], str):
            raise ValueError("it is not what was written")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{folder.url}/{POINTER} is damaged, or this is no catalogue's URL: {error}") from error
    return dict(found)


def read(folder: Folder) -> dict[str, Any] | None:
    """The index that the pointer names, or None where nothing was published; `DamagedError` names what is damaged."""
    found = read_pointer(folder)
    return None if found is None else read_index(folder, found)


def read_index(folder: Folder, pointer: Mapping[str, Any]) -> dict[str, Any]:
    """The index that a pointer names, found to say what a reader needs."""
    found = unpacked(folder, pointer["index"])
    with damage(f"{folder.url}/{pointer['index']['path']} is damaged"):
        if found["format"] > FORMAT:
            raise UserError(f"catalogue={folder.url}: written by a newer version of this program; update it")
        for row in found["vdnas"]:
            spec = found["specs"][row["spec"]]
            sound = all(NAME.fullmatch(name) for name in (row["dataset"], spec["extractor"]))
            sound = sound and all(isinstance(r["path"], str) for r in (row["manifest"], *_records(row)))
            sound = sound and isinstance(row["group"], str) and isinstance(row["images"], int)
            if not (sound and all(isinstance(n, int) and n > 0 for n in spec["layers"].values())):
                raise DamagedError(
                    f"{folder.url}: its index is not as this program writes it, of {row['dataset']!r:.99}"
                )
        for matrix in found["matrices"]:
            names = [found["vdnas"][place]["dataset"] for place in matrix["members"]]
            if (
                len(set(names)) < len(names)
                or not {"group", "metrics", "units", "created", "manifest"} <= matrix.keys()
            ):
                raise DamagedError(f"{folder.url}: its index is not as this program writes it, of a matrix")
    return dict(found)


def _records(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [version["manifest"] for version in row["versions"]]


def unpacked(folder: Folder, part: Mapping[str, Any]) -> Any:
    """A part of what was published: gzipped JSON, checked before it is unpacked."""
    data = checked(folder, part)
    try:
        unpacker = zlib.decompressobj(wbits=31)
        text = unpacker.decompress(data, MAX_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError("it unpacks to more than an index may have")
        return json.loads(text)
    except (ValueError, zlib.error, RecursionError) as error:
        raise DamagedError(f"{folder.url}/{part['path']} is damaged: {error}") from error


def checked(folder: Folder, part: Mapping[str, Any]) -> bytes:
    """An object by its path, found to have its SHA-256; `DamagedError` if it has not, or is not there."""
    data = folder.get_known(part["path"], part["sha256"])
    if data is None:
        raise DamagedError(f"{folder.url}/{part['path']} is damaged: it is not what was written")
    return data


def schema() -> bytes:
    """The JSON schema of the index."""
    return importlib.resources.files("pipeline.catalogue").joinpath("index.schema.json").read_bytes()
