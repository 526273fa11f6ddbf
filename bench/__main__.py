"""All measurements, each in a process of its own, as one table and as JSON.

    python -m bench                           # an hour on two cores; bench/results.json
    python -m bench kernels decode            # some of them; the others' figures stay

The machine should do nothing else meanwhile.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Figures, table

PARTS = ("extract", "profile", "kernels", "matrix", "decode", "reading", "store", "memory", "catalogue")
RESULTS = Path(__file__).with_name("results.json")


def main(names: list[str]) -> None:
    """Bring `results.json` up to date."""
    if unknown := set(names) - set(PARTS):
        sys.exit(f"bench: there is no {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    figures: Figures = json.loads(RESULTS.read_text()) if names and RESULTS.exists() else {}
    for name in names or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figures.json"
            subprocess.run([sys.executable, "-m", "bench", "--one", name, str(path)], check=True)
            made: Figures = json.loads(path.read_text())
        print(f"\n{name}\n{table(made)}", flush=True)
        figures |= made
        RESULTS.write_text(json.dumps(dict(sorted(figures.items())), indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        module = importlib.import_module(f"bench.{sys.argv[2]}")
        Path(sys.argv[3]).write_text(json.dumps(module.measure()))
    else:
        main(sys.argv[1:])
