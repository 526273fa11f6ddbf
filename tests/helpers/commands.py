"""The settings of a command line, and the command itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hydra import compose, initialize_config_dir

from pipeline.config.composition import read
from pipeline.config.networks import CONF
from pipeline.config.settings import Settings
from pipeline.stages.context import RunContext
from tests.helpers import forked

ROOT = Path(__file__).resolve().parents[2]
TINY = ("extractor=timm", "extractor.model=test_vit", "extractor.weights=random")
"""A transformer of 160 pixels and a few thousand parameters."""


def settings(*overrides: str) -> Settings:
    """The settings a command line gives."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return read(compose("config", overrides=list(overrides)))


def context(*overrides: str) -> RunContext:
    """The run that a command line asks for."""
    return RunContext(settings(*overrides))


def command(*arguments: str, module: str = "pipeline.run", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, in a process of its own."""
    return forked.run(module, arguments, cwd, {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}, 300)
