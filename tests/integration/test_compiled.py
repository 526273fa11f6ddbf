"""Compiled loops are kept where no other user can put code; a process without such a place compiles for itself."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distributions.kernels.compiled import only_ours
from tests.helpers.commands import ROOT

LOOP = """
from distributions.kernels.compiled import compiled

@compiled()
def double(value):
    return value * 2
"""
OTHER = 54321
PROGRAM = """
import os
import distributions.kernels, numba
numba.njit(lambda number: number)(1)
os.setgroups([]), os.setgid({user}), os.setuid({user})
if os.environ["HOME"] == "unset":
    del os.environ["HOME"]
from loop import double
print(double(21), sum(double.stats.cache_hits.values()), double.stats.cache_path)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that another user can reach, with a loop that nobody but root can write beside."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "loop.py").write_text(LOOP)
        Path(folder).chmod(0o755)
        yield Path(folder)


def here(folder: Path) -> tuple[int, int]:
    """The loop in this process as if it were new: what it gives, and how often it was found compiled."""
    double: Any = runpy.run_path(str(folder / "loop.py"))["double"]
    return double(21), sum(double.stats.cache_hits.values())


def as_another(folder: Path, home: str, cache: Path | None = None) -> tuple[str, str, str]:
    """The same of another user, in a process of his own, and where the loop is kept."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA", "XDG"))}
    extra = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    if cache:
        extra["NUMBA_CACHE_DIR"] = str(cache)
    # The interpreter may lie in root's home: its libraries are loaded before the user is changed.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(user=OTHER)],
        cwd=folder,
        env={**kept, **extra, "HOME": home},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    value, hits, where = done.stdout.strip().split(" ", 2)
    return value, hits, where


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x80\x05garbage" * 100)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    """Bits of the machine code, which any reader of the format would take."""
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 4, len(data), 97):
        data[at] ^= 1
    path.write_bytes(data)


def _of_another_kind(path: Path) -> None:
    path.write_bytes(b"\x80\x04N.")


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_what_was_compiled_is_found_again(place: Path) -> None:
    assert [here(place), here(place)] == [(42, 0), (42, 1)]


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [_empty, _garbage, _cut, _flipped, _of_another_kind, _a_folder])
def test_a_damaged_cache_is_no_cache(place: Path, damage: Callable[[Path], None], ending: str) -> None:
    here(place)
    (path,) = place.rglob(f"*.{ending}")
    damage(path)
    assert here(place) == (42, 0)
    if damage is not _a_folder:
        assert here(place) == (42, 1)  # the damage is mended


def test_a_cache_that_can_no_longer_be_written_costs_nothing_else(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    double: Any = runpy.run_path(str(place / "loop.py"))["double"]
    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    assert double(21) == 42


@as_root
@pytest.mark.parametrize("home", ["/proc", "/nonexistent", "~", "unset"])
def test_a_user_who_owns_nothing_compiles_for_himself(place: Path, home: str) -> None:
    before = set(place.iterdir())
    assert as_another(place, home) == ("42", "0", "None")
    assert set(place.iterdir()) == before  # no folder called ~


@as_root
def test_his_own_folder_serves_him(place: Path) -> None:
    home = place / "home"
    home.mkdir()
    os.chown(home, OTHER, OTHER)
    runs = [as_another(place, str(home)) for _ in range(2)]
    assert [(value, hits) for value, hits, _ in runs] == [("42", "0"), ("42", "1")]
    assert all(where.startswith(str(home)) for _, _, where in runs)


@as_root
@pytest.mark.parametrize(
    ("owner", "mode", "of_all"),
    [
        (OTHER + 1, 0o777, False),
        (OTHER, 0o777, False),
        (0, 0o777, False),
        (OTHER + 1, 0o1777, False),
        (0, 0o1777, True),
    ],
)
def test_code_that_others_could_have_put_there_is_not_loaded(place: Path, owner: int, mode: int, of_all: bool) -> None:
    """Of the folders that anyone may write to only root's with the sticky bit, as /tmp is, can hold one's own."""
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, owner, owner)
    shared.chmod(mode)
    mine = shared / "mine"
    mine.mkdir()
    os.chown(mine, OTHER, OTHER)
    value, hits, where = as_another(place, "/proc", mine)
    assert (value, hits, where.startswith(str(mine))) == ("42", "0", of_all)
    assert not only_ours(mine)  # a program of root's does not load what he keeps there
