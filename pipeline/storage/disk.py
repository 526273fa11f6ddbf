"""Writing local files atomically: a file appears complete or not at all.

write(Path("catalogue/catalogue.json"), data)               # a temporary file and a rename
write(Path("catalogue/claims/000001"), data, new=True)      # FileExistsError if the name is taken
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp"


def write(path: Path, data: bytes, new: bool = False) -> None:
    """Write a file atomically: at any moment it has its old or its new content.

    With `new`, raises `FileExistsError` if the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}{TEMPORARY}")
    try:
        if not _written_nameless(temporary, data):
            with temporary.open("wb") as file:
                _fill(file, data)
        if new:
            _name_new(temporary, path)
            temporary.unlink()
        else:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def expand_home(path: str | Path) -> Path:
    """A path that a user has given, with `~` expanded. If the home is unknown, `~` stays part of the file's name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _written_nameless(path: Path, data: bytes) -> bool:
    """Write a file without a name, then name it `path`: if the writer is killed before that, nothing is left.

    Returns False, and leaves nothing, on systems without nameless files.
    """
    try:
        number = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        return False
    with os.fdopen(number, "wb") as file:
        _fill(file, data)
        with contextlib.suppress(OSError):
            # Both paths are absolute, but only with a directory given does `os.link` follow the link in /proc.
            os.link(f"/proc/self/fd/{number}", path, src_dir_fd=number, follow_symlinks=True)
            return True
    return False


def _fill(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())  # otherwise a power loss can leave the name without the contents


def _name_new(temporary: Path, path: Path) -> None:
    """Give a file its name. Raises `FileExistsError` if the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links; here a reader may see an incomplete file
        with path.open("xb") as file:
            file.write(temporary.read_bytes())
