"""The Triton programs in Triton's interpreter, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    arguments = ["-q", "--noconftest", "-p", "no:cacheprovider", "tests/helpers/interpreted_triton.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
