"""The wheel has all that the packages need, and nothing else. `make dist` tries the real ones: `DIST=dist`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("conf", "distributions", "extractors", "pipeline")
LICENCES = ("LICENSE", "NOTICE", "pipeline/site/vendor/fzstd.LICENSE.txt")


def package_files() -> set[str]:
    """Files of the packages, as they lie in the repository; what running them leaves behind is none."""
    paths = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in `DIST`; else one that is built here, without a network."""
    if folder := os.environ.get("DIST"):
        (built,) = (ROOT / folder).glob("*.whl")
        return built
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(copy)], check=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_is_whole(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    files = {name for name in names if ".dist-info/" not in name}
    assert files == package_files()
    for name in ("pipeline/site/index.html", "conf/config.yaml"):
        assert name in files
    assert {f"{package}/py.typed" for package in PACKAGES[1:]} <= files
    folder = metadata.rpartition("/")[0]
    assert {f"{folder}/licenses/{name}" for name in LICENCES} <= names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Version: {project['version']}" in text
    assert f"Requires-Python: {project['requires-python']}" in text


def test_it_is_imported_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    script = (
        "import conf, distributions, extractors, pipeline, sys\n"
        "from pipeline import open_catalogue\n"
        "from pipeline.config.networks import CONF\n"
        "assert (CONF / 'config.yaml').is_file()\n"
        "for module in (conf, distributions, extractors, pipeline): print(module.__file__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [Path(line).parent for line in done.stdout.splitlines()] == [target / name for name in PACKAGES]


@pytest.mark.skipif("DIST" not in os.environ, reason="make dist builds it")
def test_the_source_distribution_is_enough_to_work_on() -> None:
    (built,) = (ROOT / os.environ["DIST"]).glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() <= names
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    left_out = {name for name in tracked if name} - names
    assert left_out <= {".ci/run", ".gitignore"}, left_out
