"""The vdna library's own tests, run on `pipeline.compat.vdna`.

    git clone https://github.com/bramtoula/vdna
    python -m tests.helpers.vdna_suite vdna [arguments of pytest]

They run as they are, in a copy of their folder, with `vdna` standing for `pipeline.compat.vdna`. Networks are
untrained, so there is nothing to download; the published activation ranges, which belong to trained ones, are observed
instead.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CONFTEST = '''
import sys
import types
import warnings

import numpy as np
import torch

import pipeline.compat.vdna as api
from distributions import HistogramAxes
from pipeline import make_vdna

warnings.filterwarnings("ignore", "device=cuda")
KNOWN = {}


class VDNAProcessor(api.VDNAProcessor):
    """Untrained networks, each on the ranges it has on the suite's own pictures."""

    def __init__(self):
        super().__init__(weights="random", seed=0)

    def _network(self, name, crop, device):
        if (name, crop) not in KNOWN:
            KNOWN.clear()
            network = super()._network(name, crop, device)
            for kernel in network.model.parameters():
                if kernel.ndim == 4:  # as large as a trained one's: the suite expects pictures to differ visibly
                    kernel.normal_(std=(2 / kernel[0].numel()) ** 0.5, generator=torch.Generator().manual_seed(0))
            KNOWN[name, crop] = network, None
        return KNOWN[name, crop][0]

    def _axes(self, network):
        found = KNOWN[network.name, network.preprocess.crop]
        if found[1] is None:
            seen = make_vdna("tests/test_data/multiple_images", network, ["activation-ranges"]).ranges()
            axes = HistogramAxes(network.layers, *(side.astype(np.float64) for side in seen), "scale")
            KNOWN[network.name, network.preprocess.crop] = found[0], axes
        return KNOWN[network.name, network.preprocess.crop][1]


module = types.ModuleType("vdna")
module.__dict__.update({name: getattr(api, name) for name in api.__all__}, VDNAProcessor=VDNAProcessor)
sys.modules["vdna"] = module
'''


def main(repository: Path, arguments: list[str]) -> int:
    """Run them; returns pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tests"
        shutil.copytree(repository / "tests", copy)
        (copy / "conftest.py").write_text(CONFTEST)
        return subprocess.run([sys.executable, "-m", "pytest", "tests", *arguments], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
