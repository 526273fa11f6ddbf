"""What the tests of faults share: many small tasks, and what a quiet run makes of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.helpers.in_process import in_process
from tests.helpers.runs import digest, do, of
from tests.helpers.schedule import FULL


@pytest.fixture(scope="session")
def many(tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces in twenty-four shards of four, or in forty-eight: many small tasks, between which much can happen."""
    folder = tmp_path_factory.mktemp("many")
    for path in sorted(tars.glob("*.tar"))[:: 1 if FULL else 2]:
        with tarfile.open(path) as whole:
            members = whole.getmembers()
            for start in range(0, len(members), 4):
                with tarfile.open(folder / f"{path.stem}-{start:02d}.tar", "w") as part:
                    for member in members[start : start + 4]:
                        part.addfile(member, whole.extractfile(member))
    return folder


@pytest.fixture(scope="session")
def calm(many: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest after an undisturbed run on a disk, that all others have to end with."""
    with in_process():
        return digest(do(of(many, tmp_path_factory.mktemp("calm"), "actors=1")))
