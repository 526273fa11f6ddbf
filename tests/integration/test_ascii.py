"""Help and errors of the commands in an ASCII terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import forked
from tests.helpers.commands import ROOT


@pytest.mark.parametrize("module", ["pipeline.catalogue", "pipeline.cli.extractors"])
def test_help_and_errors_in_ascii(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LANG": "C"}
    for words in (["--help"], ["list", "caf\xe9\u2013"]):
        done = forked.run(module, words, ROOT, environment, 120)
        assert done.returncode == (0 if words == ["--help"] else 2)
        assert "Traceback" not in done.stderr


def test_a_text_beyond_ascii_fails_where_nothing_cares(tmp_path: Path) -> None:
    """So the terminal of these tests is one."""
    (tmp_path / "careless.py").write_text('print("\xe9")')
    done = forked.run("careless", (), tmp_path, {**os.environ, "PYTHONIOENCODING": "ascii"}, 120)
    assert "UnicodeEncodeError" in done.stderr
