"""`experiment=NAME` and `+experiment=NAME` are the same choice: alone, with --multirun and from one's own folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.errors import MissingConfigException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from pipeline.config.arguments import arguments, composition_error, for_hydra
from pipeline.config.networks import CONF
from pipeline.errors import UserError

MINE = """\
# @package _global_
batch_size: 7
distributions: [histogram-100]
extractor:
  weights: random
"""
SWEPT = """\
# @package _global_
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      dataset: demo_digits,demo_faces
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for `--config-dir`, with experiments of one's own."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(MINE)
    (tmp_path / "experiment" / "theirs.yaml").write_text("# @package _global_\nbatch_size: 8\n")
    (tmp_path / "experiment" / "swept.yaml").write_text(SWEPT)
    return tmp_path


def swept_datasets() -> Any:
    """What remembers the datasets of a multirun."""
    return get_class(OmegaConf.load(CONF / "config.yaml").hydra.callbacks.sweep._target_)


def runs(monkeypatch: pytest.MonkeyPatch, *given: str) -> list[dict[str, Any]]:
    """The configurations that a command line runs, one after the other, as the command's own path makes them."""
    seen: list[dict[str, Any]] = []

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def main(cfg: DictConfig) -> None:
        seen.append(dict(OmegaConf.to_container(cfg)))

    monkeypatch.setattr(sys, "argv", ["run", *for_hydra(arguments(given))])
    monkeypatch.setattr(swept_datasets(), "names", [])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    main()
    return seen


def both(monkeypatch: pytest.MonkeyPatch, name: str, *given: str) -> list[dict[str, Any]]:
    plain, added = (runs(monkeypatch, *given, f"{sign}experiment={name}") for sign in ("", "+"))
    assert plain == added
    return plain


def test_the_demo_sweeps_its_five_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    cfgs = both(monkeypatch, "demo")
    names = [cfg["dataset"]["name"] for cfg in cfgs]
    assert names == ["demo_photographs", "demo_microscopy", "demo_textures", "demo_digits", "demo_faces"]
    assert swept_datasets().names == names
    # What an experiment does not say is what a run without one has.
    assert cfgs[3:4] == runs(monkeypatch, "dataset=demo_digits")
    assert "experiment" not in cfgs[0]


def test_one_of_your_own_is_laid_over_the_rest(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    given = ("--config-dir", str(folder), "dataset=demo_digits")
    (cfg,) = both(monkeypatch, "mine", *given)
    (usual,) = runs(monkeypatch, *given)
    changed = {key for key in cfg if cfg[key] != usual[key]}
    assert changed == {"batch_size", "distributions", "extractor"}
    assert cfg["batch_size"] == 7
    assert cfg["extractor"] == {**usual["extractor"], "weights": "random"}


def test_the_command_line_counts_more(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    given = ("--config-dir", str(folder), "dataset=demo_digits", "batch_size=9", "extractor.weights=pretrained")
    (cfg,) = both(monkeypatch, "mine", *given)
    assert (cfg["batch_size"], cfg["extractor"]["weights"]) == (9, "pretrained")


def test_multirun_in_the_file_and_on_the_command_line(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    swept = both(monkeypatch, "swept", "--config-dir", str(folder))
    assert [cfg["dataset"]["name"] for cfg in swept] == ["demo_digits", "demo_faces"]
    flags = ("--config-dir", str(folder), "--multirun", "dataset=demo_digits,demo_faces")
    assert [cfg["batch_size"] for cfg in both(monkeypatch, "mine", *flags)] == [7, 7]
    several = both(monkeypatch, "mine,theirs", "--config-dir", str(folder), "-m", "dataset=demo_faces")
    assert [cfg["batch_size"] for cfg in several] == [7, 8]


@pytest.mark.parametrize("sign", ["", "+"])
def test_a_name_that_is_not_there(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    given = f"{sign}experiment=dmo"
    with pytest.raises(MissingConfigException) as caught:
        runs(monkeypatch, given)
    error = composition_error(caught.value, [given])
    assert isinstance(error, UserError)
    assert "did you mean experiment=demo?" in str(error)
