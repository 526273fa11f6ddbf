"""`~` is the user's home wherever a path is taken, and no folder of that name is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from distributions.plots import paper
from extractors import ExtractorError
from extractors.sources import create
from pipeline.cli import catalogue, exchange, recipes
from pipeline.compat.vdna.processor import _images
from pipeline.config.arguments import arguments
from pipeline.errors import UserError
from pipeline.formats import fid_files, vdna_files
from pipeline.stages.context import RunContext
from pipeline.storage import hub
from pipeline.storage.disk import expand_home
from tests.helpers.commands import settings

HUBCONF = "from torch import nn\ndef entry(**_): return nn.Conv2d(3, 4, 3)\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and another folder to work in."""
    (tmp_path / "home" / "photos").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    for name in ("0.png", "1.png", "2.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "home" / "photos" / name)
    (tmp_path / "home" / "list.txt").write_text("~/photos/0.png\nphotos/1.png\n")
    (tmp_path / "home" / "r.json").write_text("{}")
    (tmp_path / "home" / "hubconf.py").write_text(HUBCONF)
    recipe = "extractors: [efficientnet_lite0]\ndatasets: [{name: a, url: '~/photos'}]\n"
    (tmp_path / "home" / "recipe.yaml").write_text(recipe)
    return tmp_path / "home"


WRITERS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a picture": (lambda vdna: paper.save(Figure(), "~/p.svg"), "p.svg"),
    "files of the seed": (lambda vdna: vdna_files.store(Path("~/v"), {}, {}), "v.npz"),
    "an export": (lambda vdna: exchange.export_vdna(vdna, "~/out/v", "vdna", "gaussian", ""), "out/v.json"),
    "statistics": (lambda vdna: fid_files.write(vdna, Path("~/f"), "first"), "f.npz"),
    "axes": (lambda vdna: exchange.write_ranges(vdna, "~/deeper/axes.json"), "deeper/axes.json"),
}


@pytest.mark.parametrize("what", WRITERS)
def test_what_is_written(what: str, home: Path, filled: Callable[..., Any]) -> None:
    write, name = WRITERS[what]
    write(filled(1))
    assert (home / name).stat().st_size
    assert not list(Path.cwd().iterdir())


def test_what_is_read(home: Path, filled: Callable[..., Any]) -> None:
    exchange.export_vdna(filled(1), "~/v", "vdna", "gaussian", "")
    assert vdna_files.read(Path("~/v")).images == filled(1).images
    assert hub.local("~/v", ("json", "npz")) == home / "v"
    assert recipes.read("~/recipe.yaml", {}).path == home / "recipe.yaml"
    with pytest.raises(UserError, match="no such recipe"):
        recipes.read("~/other.yaml", {})
    assert create("hub", "~/entry").module.out_channels == 4
    catalogue._check_picture("~/p.svg")
    with pytest.raises(UserError, match=f"there is no folder {home}/none"):
        catalogue._check_picture("~/none/p.svg")
    run_settings = settings(*arguments(["dataset=images", "dataset.name=a", "dataset.url=b", "ranges=~/r.json"]))
    with pytest.raises(UserError, match=r"ranges=~/r\.json: (?!neither)"):
        RunContext(run_settings).ranges_of("network")


@pytest.mark.parametrize(
    ("source", "number", "expected"),
    [
        ("~/photos", -1, ["0.png", "1.png", "2.png"]),
        ("~/photos", 2, ["0.png", "1.png"]),
        (Path("~/photos"), 2, ["0.png", "1.png"]),
        ("~/photos/1.png", -1, ["1.png"]),
        (["~/photos/1.png", Path("~/photos/2.png")], -1, ["1.png", "2.png"]),
        ("~/list.txt", -1, ["0.png", "1.png"]),
    ],
)
def test_sources_of_the_seed_s_interface(source: Any, number: int, expected: list[str], home: Path) -> None:
    assert _images(source, number, False, 0) == [str(home / "photos" / name) for name in expected]


def test_nobodys_home_is_a_name(home: Path) -> None:
    assert expand_home("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expand_home("a/~") == Path("a/~")
    assert expand_home("~") == home
    paper.save(Figure(), "~backup.svg")
    assert (Path.cwd() / "~backup.svg").exists()
    with pytest.raises(ExtractorError, match=r"cannot make it|there is no"):
        create("hub", "~nobody-of-that-name/entry")


def test_statistics_are_read(home: Path) -> None:
    np.savez(home / "s.npz", mu=np.zeros(2), sigma=np.eye(2))
    assert fid_files.read(Path("~/s.npz"), 5).images == 5
    assert json.loads((home / "r.json").read_text()) == {}
