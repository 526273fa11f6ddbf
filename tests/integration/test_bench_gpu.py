"""The measurements of a GPU run where there is none, or say that there is none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import command

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return command(*arguments, module="bench.gpu")


def test_the_bench_runs_where_there_is_no_gpu(tmp_path: Path) -> None:
    done = bench("--device", "cpu", "--tiny", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stderr
    assert "these figures mean nothing" in done.stdout
    figures = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    assert {"gpu_extract", "gpu_vs_seed", "gpu_decode", "gpu_count_bins_bf16"} <= figures.keys()
    for figure in figures.values():
        assert figure["spread"][0] <= figure["value"] <= figure["spread"][1]
        assert figure["unit"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_bench_says_when_there_is_no_gpu() -> None:
    done = bench()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no CUDA device here: nothing was measured\n"
