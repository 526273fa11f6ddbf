"""How far a long stage is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)
console = Console()
LINE_EVERY = 15.0


class Tracker:
    """Counts tasks, images, skipped images and actors alive while a pool works.

    with Tracker("extracting demo_digits", tasks=4) as tracker:
        tracker.show(done=1, counted=100, skipped=2, actors=1)
    """

    def __init__(self, title: str, tasks: int) -> None:
        self.title, self.tasks = title, tasks
        self._start = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tasks · {task.fields[state]} ·"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._id = self._bar.add_task(title, total=tasks, state="starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, done: int, counted: int, skipped: int, actors: int) -> None:
        """Bring the bar up to date, or log a line if the last one is some seconds old."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        state = f"{counted} images, {counted / seconds:.0f}/s, {skipped} skipped, {actors} actor(s)"
        self._bar.update(self._id, completed=done, state=state)
        if self._bar.disable and (time.monotonic() - self._last_line > LINE_EVERY or done == self.tasks):
            self._last_line = time.monotonic()
            left = f", about {seconds / done * (self.tasks - done):.0f} s left" if 0 < done < self.tasks else ""
            log.info("%s: %d of %d tasks, %s%s", self.title, done, self.tasks, state, left)
