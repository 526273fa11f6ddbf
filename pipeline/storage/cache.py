"""A cache on this machine for objects of remote catalogues, by their SHA-256, so that each is fetched once.

    remember(sha256, data)
    recall(sha256)                            # the bytes, or None

The objects lie in `$VDNA_CACHE/objects`, by default `~/.cache/vdna-catalogue/objects`. The folder `measured` beside it
holds the VDNAs of the user's own images (pipeline/measure/images.py). When both together hold more than
`MAX_CACHE_BYTES`, the least recently used files are removed. A damaged object counts as absent. If the cache cannot be
written, nothing is cached and no error is raised.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

MAX_CACHE_BYTES = 8 << 30
KEPT_SHARE = 0.8
"""Share of `MAX_CACHE_BYTES` that is kept when files are removed."""


def recall(sha256: str) -> bytes | None:
    """The bytes of a cached object, or None if it is absent or its SHA-256 differs."""
    path = _path(sha256)
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            with contextlib.suppress(OSError):  # the file may be readable but owned by another user
                os.utime(path)
            return data
    return None


def remember(sha256: str, data: bytes) -> None:
    """Cache an object. The caller has checked that `sha256` is the hash of `data`."""
    path = _path(sha256)
    temporary = path.with_name(f"{sha256}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
        return
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def tidy() -> None:
    """Remove the least recently used files if the cache is larger than `MAX_CACHE_BYTES`."""
    files = []
    for path in (path for pattern in ("objects/??/*", "measured/*/*/*") for path in folder().glob(pattern)):
        with contextlib.suppress(OSError):
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    if total <= MAX_CACHE_BYTES:
        return
    for _, size, path in sorted(files):
        if total <= KEPT_SHARE * MAX_CACHE_BYTES:
            break
        total -= size
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def folder() -> Path:
    """The folder of the cache. The weights cache of `extractors` uses the same folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vdna-catalogue"
    try:
        return Path(os.environ.get("VDNA_CACHE") or default).expanduser()
    except RuntimeError:  # the user has no home: return a path where nothing can be created
        return Path(os.devnull) / "vdna-catalogue"


def _path(sha256: str) -> Path:
    return folder() / "objects" / sha256[:2] / sha256
