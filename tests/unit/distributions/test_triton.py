"""The Triton programs without a GPU. On one, `tests/unit/distributions/test_kernels.py` tests what Triton compiles."""

from __future__ import annotations

import sys

import pytest
import torch

from distributions.kernels import gpu


def test_without_triton_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "distributions.kernels.programs", raising=False)
    with pytest.raises(RuntimeError, match=r"statistics on a GPU need Triton .*pip install triton"):
        gpu.position_means(torch.zeros(1, 1, 1))
