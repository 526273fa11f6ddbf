"""The runs of one command: each dataset's stages, what failed, and the report at the end.

    runs = Runs()
    runs.one(settings)                        # a dataset through an extractor
    runs.batch(recipe)                        # or a recipe: a list of settings for each extractor
    runs.report(console)

A mistake is one line on standard error. With several datasets the others go on, and what is done is kept.
"""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from distributions import IncompatibleError
from extractors import ExtractorError, FrozenNetwork
from pipeline.cli import report
from pipeline.config.settings import STAGES, Settings
from pipeline.errors import DamagedError, UserError
from pipeline.stages.context import RunContext
from pipeline.storage.urls import redact

log = logging.getLogger(__name__)

REPORTED = {"reduce", "compare"}
"""Stages after which there is something to tell of a dataset."""
SITE = "site"


def run_stages(context: RunContext, stages: Collection[str] = STAGES) -> None:
    """Every stage that the settings ask for, in order, or those of them that are among `stages`. Partials that reduce
    finds damaged are made again."""
    asked = context.settings.stages
    for stage in (stage for stage in asked if stage in stages):
        try:
            _stage(stage).run(context)
        except DamagedError as error:
            if stage != "reduce" or "extract" not in asked:
                raise
            log.warning("%s", redact(str(error)))
            _stage("extract").run(context)
            _stage("reduce").run(context)


def _stage(name: str) -> Any:
    return importlib.import_module(f"pipeline.stages.{name}")


class Runs:
    """`finished`: the runs that came to their end. `failures`: what failed, and why; what is empty where only one thing
    could have failed."""

    def __init__(self) -> None:
        self.finished: list[RunContext] = []
        self.failures: list[tuple[str, str]] = []

    def one(self, settings: Settings) -> None:
        """A dataset through an extractor. Raises what goes wrong (`noting` takes it)."""
        context = RunContext(settings)
        run_stages(context)
        self.finished.append(context)

    def batch(self, recipe: Sequence[Sequence[Settings]]) -> None:
        """An extractor after the other, and the site at the end. What fails is noted and stops nothing else."""
        for jobs in recipe:
            with self.noting(jobs[0].extractor.name):
                # The plan needs the network even where nothing else has to be done: it says which weights are measured.
                needed = {"plan", "calibrate", "extract"} & set(jobs[0].stages)
                done = self._measured(jobs, RunContext(jobs[0]).network if needed else None)
                self.finished.extend(done)
                if done:
                    run_stages(done[-1], ("compare",))
        if self.finished:
            with self.noting(SITE):
                run_stages(self.finished[-1], ("publish",))

    def _measured(self, jobs: Sequence[Settings], network: FrozenNetwork | None) -> list[RunContext]:
        """Bring the VDNAs of an extractor up to date; those that are."""
        done = []
        for number, job in enumerate(jobs, start=1):
            name = f"{job.dataset.name}, {job.extractor.name}"
            log.info("%s: %d of %d", name, number, len(jobs))
            context = RunContext(job, network)
            with self.noting(name):
                run_stages(context, ("plan",))
                if "calibrate" in job.stages:
                    _stage("calibrate").run(context, strict=False)
                run_stages(context, ("extract", "reduce"))
                if REPORTED & set(job.stages):
                    context.spec()  # raises what is missing, where the stages before were not asked for
                done.append(context)
            context.release()  # or the report at the end would hold the networks of all extractors in memory
        return done

    @contextmanager
    def noting(self, what: str = "") -> Iterator[None]:
        """A mistake or a fault is written to standard error and noted, and goes no further."""
        where = f"{what}: " if what else ""
        try:
            yield
        except (UserError, IncompatibleError, ExtractorError, DamagedError) as error:
            self.failures.append((what, redact(str(error))))
            sys.stderr.write(redact(f"error: {where}{error}\n"))
        except Exception as error:  # a fault of ours; Hydra would print the command with the secrets in it
            self.failures.append((what, redact(f"{type(error).__name__}: {error}")))
            sys.stderr.write(redact(f"{traceback.format_exc()}error: {where}{type(error).__name__}: {error}\n"))

    def report(self, console: Console) -> None:
        """What was counted, the matrices, where the site is, and what failed."""
        reduced = [run for run in self.finished if REPORTED & set(run.settings.stages)]
        if reduced:
            report.counted(reduced, console)
            for run in {run.settings.extractor.name: run for run in reduced}.values():
                report.compared(run, console)
        if self.finished and SITE not in dict(self.failures):
            report.published(self.finished[-1], console)
        report.failed([(what, why) for what, why in self.failures if what], console)
