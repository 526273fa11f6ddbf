"""Print to a terminal: consoles that print any text unchanged, and progress bars.

lenient()                                 # first in every command: characters that the terminal lacks are escaped
console = plain()                         # a rich console that prints `old [/b]` and `:smile:` unchanged
with Tracker("extracting", tasks=4) as tracker: ...     # a bar on a terminal; elsewhere a line every 15 s
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
LINE_EVERY = 15.0
"""Seconds between two lines of progress where there is no terminal."""


def plain(**options: Any) -> Console:
    """A console that reads no text as markup or as the name of an emoji. `options` are those of rich's `Console`."""
    return Console(markup=False, emoji=False, **options)


def lenient(*streams: object) -> None:
    """Let streams write characters that their encoding lacks as escapes such as `\\u2013`.

    Without arguments, this applies to the standard streams. A standard stream that is closed is replaced by
    `os.devnull`.
    """
    if not streams:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (it stays until the end)
        streams = (sys.stdout, sys.stderr)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


console = plain()


class Tracker:
    """Shows the progress of tasks on actors, or of images: a bar on a terminal, elsewhere a line from time to time.

    `tasks` is the number of all tasks or images, None while it is unknown. `say` writes a line.

    with Tracker("extracting demo_digits", tasks=4) as tracker:
        tracker.show(done=1, counted=100, skipped=2, actors=1)
    with Tracker("photos/", None, "images", Console(stderr=True), sys.stderr.write) as tracker:
        tracker.images(1, 100)
    """

    def __init__(
        self,
        title: str,
        tasks: int | None,
        unit: str = "tasks",
        console: Console = console,
        say: Callable[[str], object] = log.info,
    ) -> None:
        self.title, self.tasks, self.unit = title, tasks, unit
        self._say = say
        self._start = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} · {task.fields[state]} ·", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._id = self._bar.add_task(title, total=tasks, state="starting", unit=unit)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, done: int, counted: int, skipped: int, actors: int) -> None:
        """Show the progress of tasks, with the number of images counted and skipped and of running actors."""
        rate = f"{counted / self._seconds():.0f}/s"
        self._show(done, f"{counted} images, {rate}, {skipped} skipped, {actors} actor(s)")

    def images(self, done: int, total: int | None) -> None:
        """Show the progress of images. `total` is None while it is unknown: tars do not say how many images they
        have."""
        self.tasks = total
        self._show(done, f"{done / self._seconds():.3g}/s")

    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)

    def _show(self, done: int, state: str) -> None:
        self._bar.update(self._id, completed=done, total=self.tasks, state=state)
        if self._bar.disable and (time.monotonic() - self._last_line > LINE_EVERY or done == self.tasks):
            self._last_line = time.monotonic()
            left, total = "", ""
            if self.tasks is not None:
                total = f" of {self.tasks}"
                if 0 < done < self.tasks:
                    left = f", about {self._seconds() / done * (self.tasks - done):.0f} s left"
            self._say(f"{self.title}: {done}{total} {self.unit}, {state}{left}")
