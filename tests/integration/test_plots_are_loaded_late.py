"""Nothing that draws is imported before a picture is asked for."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers.commands import ROOT


def test_nothing_is_loaded_before_a_picture_is_asked_for() -> None:
    program = "import sys, distributions, pipeline.catalogue; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
    program = "import sys, distributions.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
