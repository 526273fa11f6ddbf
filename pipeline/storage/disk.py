"""Files that appear whole or not at all.

write(Path("catalogue/catalogue.json"), data)               # a temporary file and a rename
write(Path("catalogue/claims/000001"), data, new=True)      # FileExistsError where the name is taken
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp"


def write(path: Path, data: bytes, new: bool = False) -> None:
    """Write a file whole: it has its old or its new content at any moment. `new` is refused, with `FileExistsError`,
    where there is a file."""
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


def named(path: str | Path) -> Path:
    """A path as a user gives it, with their home for `~`; of nobody's home it is the name of a file."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _written_nameless(path: Path, data: bytes) -> bool:
    """Write a file that gets its name when it is whole: of a writer that is killed meanwhile nothing stays. False, and
    nothing is there, where the system has no such files."""
    try:
        number = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        return False
    with os.fdopen(number, "wb") as file:
        _fill(file, data)
        with contextlib.suppress(OSError):
            # With a folder given, though the paths need none, the link is followed to the file.
            os.link(f"/proc/self/fd/{number}", path, src_dir_fd=number, follow_symlinks=True)
            return True
    return False


def _fill(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())  # or a machine that loses power has the name without the contents


def _name_new(temporary: Path, path: Path) -> None:
    """Give a file its name unless the name is taken: `FileExistsError`."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links; here a reader may find it half written
        with path.open("xb") as file:
            file.write(temporary.read_bytes())
