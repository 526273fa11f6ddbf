"""The Triton programs without a GPU. On one, `tests/unit/distributions/test_kernels.py` tests what Triton compiles."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from distributions.kernels import gpu
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


def test_without_triton_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "distributions.kernels.programs", raising=False)
    with pytest.raises(RuntimeError, match=r"statistics on a GPU need Triton .*pip install triton"):
        gpu.position_means(torch.zeros(1, 1, 1))
