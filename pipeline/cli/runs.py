"""Run the stages of a command's datasets, record what failed, and print the report.

    runs = Runs()
    runs.run_dataset(settings)                # one dataset
    runs.run_recipe(recipe)                   # or a recipe: a list of settings for each extractor
    runs.report(console)

A mistake gives one line on standard error. If there are several datasets, the others are still measured.
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
from pipeline.cluster.actors import Spares
from pipeline.config.settings import STAGES, Settings
from pipeline.errors import DamagedError, UserError
from pipeline.stages.context import RunContext
from pipeline.storage.urls import redact

log = logging.getLogger(__name__)

REPORTED = {"reduce", "compare"}
"""Stages after which a dataset is part of the report."""
SITE = "site"
_COMPARE, _PUBLISH = STAGES.index("compare"), STAGES.index("publish")
OF_DATASET, OF_EXTRACTOR, OF_CATALOGUE = STAGES[:_COMPARE], STAGES[_COMPARE:_PUBLISH], STAGES[_PUBLISH:]
"""The stages that a recipe runs for each dataset, once for each extractor, and once at the end."""


def run_stages(context: RunContext, stages: Collection[str] = STAGES, strict: bool = True) -> None:
    """Run the configured stages that are among `stages`, in order. Partials that reduce finds damaged are made
    again. If not `strict`, calibrate leaves out datasets that cannot be read."""
    configured = context.settings.stages
    for stage in (stage for stage in configured if stage in stages):
        options = {"strict": strict} if stage == "calibrate" else {}
        try:
            _stage(stage).run(context, **options)
        except DamagedError as error:
            if stage != "reduce" or "extract" not in configured:
                raise
            log.warning("%s", redact(str(error)))
            _stage("extract").run(context)
            _stage("reduce").run(context)


def _stage(name: str) -> Any:
    return importlib.import_module(f"pipeline.stages.{name}")


class Runs:
    """The runs of a command.

    `finished` are the contexts of the runs that succeeded. `failures` are pairs of what failed and the reason; what
    failed is "" in a command with a single run.
    """

    def __init__(self) -> None:
        self.finished: list[RunContext] = []
        self.failures: list[tuple[str, str]] = []
        self._spares = Spares()

    def end_spares(self) -> None:
        """End the actors that one run has left to the next."""
        self._spares.end()

    def run_dataset(self, settings: Settings) -> None:
        """Run one dataset. Raises its errors; call it inside `recording`."""
        context = RunContext(settings, spares=self._spares)
        run_stages(context)
        self.finished.append(context)

    def run_recipe(self, recipe: Sequence[Sequence[Settings]]) -> None:
        """Run a recipe, one extractor after the other, and publish once at the end. A failure is recorded and stops no
        other dataset or extractor."""
        for jobs in recipe:
            with self.recording(jobs[0].extractor.name):
                # The plan stage needs the network even if nothing is left to do: the plan names the weights.
                needed = {"plan", "calibrate", "extract"} & set(jobs[0].stages)
                measured = self._measure(jobs, RunContext(jobs[0]).network if needed else None)
                self.finished.extend(measured)
                if measured:
                    run_stages(measured[-1], OF_EXTRACTOR)
        if self.finished:
            self.end_spares()
            with self.recording(SITE):
                run_stages(self.finished[-1], OF_CATALOGUE)

    def _measure(self, jobs: Sequence[Settings], network: FrozenNetwork | None) -> list[RunContext]:
        """Bring the VDNAs of an extractor up to date, and return the contexts of the datasets that succeeded."""
        measured = []
        for number, job in enumerate(jobs, start=1):
            name = f"{job.dataset.name}, {job.extractor.name}"
            log.info("%s: %d of %d", name, number, len(jobs))
            context = RunContext(job, network, self._spares)
            with self.recording(name):
                run_stages(context, OF_DATASET, strict=False)
                if REPORTED & set(job.stages):
                    context.spec()  # raises an error if an earlier stage is missing
                measured.append(context)
            context.release()  # otherwise the networks of all extractors would stay in memory until the report
        return measured

    @contextmanager
    def recording(self, what: str = "") -> Iterator[None]:
        """Catch an error of the block, write it to standard error, and add it to `failures`."""
        where = f"{what}: " if what else ""
        try:
            yield
        except (UserError, IncompatibleError, ExtractorError, DamagedError) as error:
            self.failures.append((what, redact(str(error))))
            sys.stderr.write(redact(f"error: {where}{error}\n"))
        except Exception as error:  # a fault of this program; Hydra would print the command with its secrets
            self.failures.append((what, redact(f"{type(error).__name__}: {error}")))
            sys.stderr.write(redact(f"{traceback.format_exc()}error: {where}{type(error).__name__}: {error}\n"))

    def report(self, console: Console) -> None:
        """Print the counts, the matrices, the place of the site, and what failed."""
        reduced = [run for run in self.finished if REPORTED & set(run.settings.stages)]
        if reduced:
            report.print_counts(reduced, console)
            for run in {run.extractor.name: run for run in reduced}.values():
                report.print_matrices(run, console)
        if self.finished and SITE not in dict(self.failures):
            report.print_site(self.finished[-1], console)
        report.print_failures([(what, why) for what, why in self.failures if what], console)
