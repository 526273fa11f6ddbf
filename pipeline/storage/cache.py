"""Objects of catalogues elsewhere, kept on this machine by their SHA-256, so that none is fetched twice.

    remember(sha256, data)
    recall(sha256)                            # the bytes, or None

In `$VDNA_CACHE/objects`, else `~/.cache/vdna-catalogue/objects`; beside them, in `measured`, the VDNAs of one's own
images (images.py). What has rotted there counts as not there. The oldest used go when both hold more than `MOST_BYTES`.
A cache that cannot be written is none, and no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

MOST_BYTES = 8 << 30
KEPT = 0.8
"""Share of that which is kept when the oldest go."""


def recall(sha256: str) -> bytes | None:
    """An object's bytes, if they are here as they were."""
    path = _path(sha256)
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            with contextlib.suppress(OSError):  # of others, which we may read
                os.utime(path)
            return data
    return None


def remember(sha256: str, data: bytes) -> None:
    """Keep an object, found to have that SHA-256."""
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
    """Let the oldest go where there is too much."""
    found = []
    for path in (path for kept in ("objects/??/*", "measured/*/*/*") for path in folder().glob(kept)):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    size = sum(size for _, size, _ in found)
    if size <= MOST_BYTES:
        return
    for _, its, path in sorted(found):
        if size <= KEPT * MOST_BYTES:
            break
        size -= its
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def folder() -> Path:
    """Where the cache lies: beside what was fetched of weights."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vdna-catalogue"
    try:
        return Path(os.environ.get("VDNA_CACHE") or users).expanduser()
    except RuntimeError:  # neither HOME nor a name of the user: a place where nothing can be
        return Path(os.devnull) / "vdna-catalogue"


def _path(sha256: str) -> Path:
    return folder() / "objects" / sha256[:2] / sha256
