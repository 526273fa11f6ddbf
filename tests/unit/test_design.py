"""The walls between the parts, held by reading their imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.helpers.commands import ROOT

PACKAGES = ("distributions", "extractors", "pipeline")
FROM_DISTRIBUTIONS = {
    "extractors/__init__.py": "distributions.moved",  # former names of modules
    "extractors/errors.py": "distributions.errors",  # one root for all exceptions
    "extractors/preprocess/resize.py": "distributions.kernels.compiled",  # how loops are compiled, and kept
}
"""The files of `extractors` that import anything of `distributions`, and what."""


def imported(path: Path) -> set[str]:
    """Modules named in a file's imports, type-checking ones included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def users(module: str, folder: str = "pipeline") -> set[str]:
    """Files of a package that import a module or something below it."""
    files = set()
    for path in (ROOT / folder).rglob("*.py"):
        if any(name == module or name.startswith(f"{module}.") for name in imported(path)):
            files.add(str(path.relative_to(ROOT)))
    return files


def test_the_mathematics_and_the_networks_know_nothing_else() -> None:
    for package, others in (
        ("distributions", ("extractors", "pipeline", "ray", "hydra", "omegaconf", "zarr", "xarray", "fsspec", "PIL")),
        ("extractors", ("distributions", "pipeline", "ray", "hydra", "omegaconf", "zarr", "xarray", "fsspec")),
    ):
        for other in others:
            allowed = FROM_DISTRIBUTIONS if (package, other) == ("extractors", "distributions") else {}
            assert users(other, package) == set(allowed), f"{package} imports {other}"
    for path, module in FROM_DISTRIBUTIONS.items():
        theirs = {name for name in imported(ROOT / path) if name.startswith("distributions")}
        assert all(name == module or name.startswith(f"{module}.") for name in theirs), f"{path} imports {theirs}"


def test_each_library_has_its_folder() -> None:
    assert users("zarr") == {"pipeline/formats/chunks.py", "pipeline/formats/groups.py"}
    assert users("ray") == {f"pipeline/cluster/{name}.py" for name in ("actors", "ray_start", "scheduler")}
    assert users("hydra") == {"pipeline/config/composition.py", "pipeline/run.py"}
    assert users("webdataset") == {"pipeline/data/demo.py"}


def test_stages_meet_only_in_the_store() -> None:
    for path in (ROOT / "pipeline" / "stages").glob("*.py"):
        others = {name for name in imported(path) if name.startswith("pipeline.stages")}
        others -= {"pipeline.stages.context", "pipeline.stages.context.RunContext"}
        assert not others, f"{path.name} imports {others}"


def test_constraints_are_names_and_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines == sorted(lines, key=str.lower)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)


def test_files_are_not_overfull() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 320, f"{path} is overfull"
