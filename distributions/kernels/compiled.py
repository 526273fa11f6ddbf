"""How the loops are compiled, and where the compiled code is kept.

    @compiled(error_model="numpy")
    def loop(values, sums): ...

Numba compiles a loop when it is first called, which takes seconds. The code is kept in `$NUMBA_CACHE_DIR`, else beside
the source, else in the user's cache folder. Where none of these can be written nothing is kept: each process compiles
for itself. Code is loaded only from a folder that no other user can fill, and only if it is what was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_numba: Any = importlib.import_module("numba.core.caching")  # it has no types


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` without the interpreter's lock, kept from one process to the next where that can be."""

    def of(function: Callable[..., Any]) -> Any:
        loop = numba.njit(nogil=True, **options)(function)
        with contextlib.suppress(RuntimeError):  # there is nowhere to keep it
            loop._cache = _Cache(function)
        return loop

    return of


def only_ours(folder: Path) -> bool:
    """Whether no other user but root can change what lies in a folder: each folder on the way belongs to this user or
    to root, and where anyone may write, names are their owners' (the sticky bit of /tmp)."""
    if not hasattr(os, "geteuid"):
        return True  # Windows: the folders asked about are the user's own
    for place in (folder, *folder.parents):
        status = place.stat()
        if status.st_uid not in (0, os.geteuid()):
            return False
        if status.st_mode & stat.S_IWOTH and (place == folder or not status.st_mode & stat.S_ISVTX):
            return False
    return True


class _Apart:
    """A place apart from the source: only with a full path, and where no other user can put code."""

    @classmethod
    def from_function(cls, function: Any, file: str) -> Any:
        # Without HOME and a name for the user, "~" stays as it is: a folder of that name wherever the program runs.
        if not Path(cls(function, file).get_cache_path()).is_absolute():  # type: ignore[call-arg, attr-defined]
            return None
        with contextlib.suppress(OSError):
            locator = super().from_function(function, file)  # type: ignore[misc]
            return locator if locator and only_ours(Path(locator.get_cache_path()).resolve()) else None
        return None


class _Named(_Apart, _numba.UserProvidedCacheLocator):  # type: ignore[misc]
    pass


class _Users(_Apart, _numba.UserWideCacheLocator):  # type: ignore[misc]
    pass


class _Place(_numba.CompileResultCacheImpl):  # type: ignore[misc]
    """Where a loop's code is kept, with its hash: of a flipped bit nothing else would tell before it is run."""

    _locator_classes = (_Named, _numba.InTreeCacheLocator, _Users)

    def reduce(self, result: Any) -> tuple[bytes, bytes]:
        content: bytes = _numba.dumps(super().reduce(result))
        return hashlib.sha256(content).digest(), content

    def rebuild(self, context: Any, kept: Any) -> Any:
        digest, content = kept
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("compiled code is not what was written")
        return super().rebuild(context, pickle.loads(content))  # noqa: S301 (this user wrote it: only_ours)


class _Cache(_numba.FunctionCache):  # type: ignore[misc]
    """Numba's, for which a file that is damaged, or cannot be read or written, is one that is not there."""

    _impl_class = _Place

    def load_overload(self, signature: Any, context: Any) -> Any:
        try:
            return super().load_overload(signature, context)
        except Exception:  # whatever pickle and LLVM think of a damaged file
            with contextlib.suppress(OSError):
                self.flush()  # or the damage would stay
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        with contextlib.suppress(Exception):  # a full disk, one that can no longer be written, a file beyond repair
            super().save_overload(signature, result)
