"""The command in a process of its own that is watched, and killed, while it runs."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.helpers import forked
from tests.helpers.commands import ROOT, TINY
from tests.helpers.runs import SMALL


@dataclass
class Driver:
    """The command in a process of its own, its output in a file."""

    process: ForkServerProcess
    output: Path

    @property
    def running(self) -> bool:
        return self.process.exitcode is None

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """Wait for its end: exit code and output."""
        self.process.join(seconds)
        code = self.process.exitcode
        self.process.kill()
        self.process.join()
        output = self.output.read_text()
        assert code is not None, f"still running after {seconds} s: {output[-2000:]}"
        return code, output


def drive(catalogue: str | Path, *arguments: str, environment: dict[str, str] | None = None) -> Driver:
    """Start `python -m pipeline.run` as a user does."""
    descriptor, name = tempfile.mkstemp(prefix="driver")
    os.close(descriptor)
    words = ("dataset=images", "dataset.name=faces", f"catalogue={catalogue}", *TINY, *SMALL, *arguments)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    output = Path(name)
    return Driver(forked.start("pipeline.run", words, ROOT, env, output, output), output)
