"""The documentation: links lead somewhere, and its tables are those of the program."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

from pipeline.moved import MOVED

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
MADE = {"tutorial.md", "contributing.md", "changelog.md", "security.md", "measurements.md"}
"""Pages that docs/build.py makes from files elsewhere."""


def rows(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", text, re.M))


def test_former_names_import_the_module_itself() -> None:
    distributions_and_extractors = rows((ROOT / "docs" / "modules.md").read_text().split("\n## ")[2])
    for former, present in {**MOVED, **distributions_and_extractors}.items():
        if former != "extractors.preprocess":
            assert importlib.import_module(former) is importlib.import_module(present), former


def test_former_names_of_modules() -> None:
    pipeline, others = (ROOT / "docs" / "modules.md").read_text().split("\n## ")[1:]
    moved = {old: new for old, new in MOVED.items() if old != new}
    assert rows(pipeline) == {**moved, "pipeline.seed_api": "pipeline.compat.vdna"}
    assert len(rows(others)) == 7
    for new in (*rows(pipeline).values(), *rows(others).values()):
        assert (ROOT / new.replace(".", "/")).with_suffix(".py").is_file() or (ROOT / new.replace(".", "/")).is_dir()
    for old, new in {
        "pipeline.images": "pipeline.measure.images",
        "pipeline.store": "pipeline.catalogue.writer",
    }.items():
        assert rows(pipeline)[old] == new
        assert importlib.import_module(old) is importlib.import_module(new)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_site_has_a_place_for_every_page() -> None:
    """Pages that the navigation names are there; others join by its patterns (docs/build.py)."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = re.findall(r"[\w/.*-]+\.md", str(config["nav"]))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} | MADE
    assert {name for name in named if "*" not in name} - {"index.md"} <= pages
    for path in pages - set(named):
        assert path.count("/") == 0 or path.startswith("decisions/")


def test_nothing_of_the_site_comes_from_another_host() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert config["theme"]["font"] is False
    assert "://" not in str(config.get("extra_css")) + str(config.get("extra_javascript"))
