"""The index lists what a catalogue holds, and the pointer names the current index.

    catalogue.json                  the pointer: the only object of a published catalogue that changes, written last
    index/HASH.json.gz              the index: specs, one row per VDNA, matrices
    index/schema-2.json             the JSON schema of the index

    index = read(ObjectStore("https://host/catalogue"))        # two requests; None if nothing was published
    index["vdnas"][0]["images"]

Every object that an index names is named after its contents and never changes. A reader of an old index therefore keeps
the old catalogue, even if another one is published meanwhile.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from distributions.comparison import metrics_of
from distributions.distances import UNITS
from pipeline.catalogue.index_schema import FORMAT, parse_index
from pipeline.errors import NEWER, DamagedError, UserError
from pipeline.formats.manifests import contents, group_path, now, version_of
from pipeline.storage.folder import ObjectStore

T = TypeVar("T")

POINTER = "catalogue.json"
MAX_POINTER = 1 << 20
MAX_BYTES = 1 << 30
"""Size limit of an unpacked index. Ten thousand VDNAs take 30 MiB."""
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
    """The index of VDNAs and matrices, from their manifests. A matrix of other versions of the VDNAs is left out."""
    specs = {m["spec"]: {key: m[key] for key in SPEC if key in m} for m in manifests}
    places = {(m["dataset"], m["spec"]): place for place, m in enumerate(manifests)}
    entries = []
    for matrix in matrices:
        members = [places.get((dataset, matrix["spec"]), -1) for dataset in matrix["datasets"]]
        if -1 not in members and contents([manifests[place] for place in members]) == matrix["digest"]:
            entries.append(_of_matrix(matrix, members, metrics_of(specs[matrix["spec"]]["distributions"])))
    return {
        "format": FORMAT,
        "created": max((m["created"] for m in (*manifests, *matrices)), default=""),
        "program": f"vdna-catalogue {importlib.metadata.version('vdna-catalogue')}",
        "specs": specs,
        "vdnas": [_of_vdna(manifest) for manifest in manifests],
        "matrices": entries,
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
    """Content as gzipped JSON. The same content gives the same bytes."""
    return gzip.compress(json.dumps(content, ensure_ascii=False).encode(), compresslevel=9, mtime=0)


def named(folder: str, ending: str, data: bytes) -> dict[str, Any]:
    """The path of an immutable object, named after its contents, with its SHA-256 and size."""
    digest = hashlib.sha256(data).hexdigest()
    return {"path": f"{folder}/{digest[:16]}{ending}", "sha256": digest, "bytes": len(data)}


def pointer(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `catalogue.json`: the parts of a publication, and a hash of that content."""
    content = {"format": FORMAT, **parts, "created": now()}
    return {**content, "digest": _digest(content)}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_pointer(folder: ObjectStore) -> dict[str, Any] | None:
    """The pointer of a catalogue, or None if nothing was published."""
    data = folder.get_verified(POINTER, max_bytes=MAX_POINTER)
    return None if data is None else pointer_of(folder, data)


def pointer_of(folder: ObjectStore, data: bytes) -> dict[str, Any]:
    """The pointer, from its bytes.

    Raises `DamagedError` if they are damaged, and `UserError` if a newer version of this program wrote them.
    """
    try:
        content = json.loads(data)
        hashed = {key: value for key, value in content.items() if key != "digest"}
        if content["format"] > FORMAT:
            raise UserError(f"catalogue={folder.url}: {NEWER}")
        if content["digest"] != _digest(hashed) or not isinstance(content["index"]["path"], str):
            raise ValueError("it is not what was written")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{folder.url}/{POINTER} is damaged, or this is no catalogue's URL: {error}") from error
    return dict(content)


def read(folder: ObjectStore) -> dict[str, Any] | None:
    """The current index, or None if nothing was published. `DamagedError` names a damaged object."""
    pointer = read_pointer(folder)
    return None if pointer is None else read_index(folder, pointer)


def read_index(folder: ObjectStore, pointer: Mapping[str, Any]) -> dict[str, Any]:
    """The index that a pointer names, as `index_schema` defines it. Raises `DamagedError` or `UserError`."""
    return _parsed(folder, pointer["index"], partial(parse_index, folder.url))


def unpacked(folder: ObjectStore, part: Mapping[str, Any]) -> Any:
    """The content of a gzipped JSON object, hashed before it is unpacked. `part` has its path and SHA-256."""
    return _parsed(folder, part, json.loads)


def _parsed(folder: ObjectStore, part: Mapping[str, Any], parse: Callable[[bytes], T]) -> T:
    data = checked(folder, part)
    try:
        unpacker = zlib.decompressobj(wbits=31)
        text = unpacker.decompress(data, MAX_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError("it unpacks to more than an index may have")
        return parse(text)
    except (ValueError, zlib.error, RecursionError) as error:
        raise DamagedError(f"{folder.url}/{part['path']} is damaged: {error}") from error


def checked(folder: ObjectStore, part: Mapping[str, Any]) -> bytes:
    """The bytes of an object. Raises `DamagedError` if it is missing or has another SHA-256 than `part` says."""
    data = folder.get_verified(part["path"], part["sha256"])
    if data is None:
        raise DamagedError(f"{folder.url}/{part['path']} is damaged: it is not what was written")
    return data
