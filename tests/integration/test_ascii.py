"""Help and errors of the commands in an ASCII terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT


@pytest.mark.parametrize("module", ["pipeline.catalogue", "pipeline.cli.extractors"])
def test_help_and_errors_in_ascii(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LANG": "C"}
    for words in (["--help"], ["list", "caf\xe9\u2013"]):
        done = subprocess.run(
            [sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == (0 if words == ["--help"] else 2)
        assert "Traceback" not in done.stderr
