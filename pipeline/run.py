"""The command: a dataset through an extractor into a catalogue.

    python -m pipeline.run dataset=demo_digits extractor=efficientnet_lite0
    python -m pipeline.run -m dataset=demo_digits,demo_faces
    python -m pipeline.run dataset=images dataset.name=mine dataset.url=photos/ catalogue=s3://bucket/catalogue
    python -m pipeline.run catalogue_recipe=reference catalogue=s3://bucket/catalogue

Runs the stages asked for, in order. A mistake of the user's is one line on standard error and exit
code 2; with several datasets the others go on. What is done is kept whatever happens.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

try:
    import hydra
    from omegaconf import DictConfig
except ModuleNotFoundError as error:
    raise SystemExit(
        f"error: the pipeline needs {error.name}: pip install '.[run]', in this program's folder"
    ) from None

from distributions import IncompatibleError
from extractors import Extractor, ExtractorError
from pipeline.cli import recipes, report
from pipeline.config.arguments import arguments, placed, refused
from pipeline.config.networks import CONF
from pipeline.config.settings import STAGES, Settings, check_overrides, choices, given, is_multirun
from pipeline.errors import DamagedError, Terminated, UserError
from pipeline.storage.objects import hide
from pipeline.terminal import console, lenient

log = logging.getLogger(__name__)

REPORTED = {"reduce", "compare"}
"""Stages after which there is something to tell of a dataset."""
SITE = "site"

finished: list[Settings] = []
failures: list[tuple[str, str]] = []
"""What failed (nothing is said where there is only one thing that could have), and why."""


def run(settings: Settings, stages: Collection[str] = STAGES) -> None:
    """Every stage asked for, in order, or those of them that are among `stages`; partials that reduce finds damaged are
    made again."""
    for stage in (stage for stage in settings.stages if stage in stages):
        try:
            _stage(stage).run(settings)
        except DamagedError as error:
            if stage != "reduce" or "extract" not in settings.stages:
                raise
            log.warning("%s", hide(str(error)))
            _stage("extract").run(settings)
            _stage("reduce").run(settings)


def _stage(name: str) -> Any:
    return importlib.import_module(f"pipeline.stages.{name}")


def batch(recipe: Sequence[Sequence[Settings]]) -> None:
    """A recipe, an extractor after the other, and the site at the end. What fails is noted and stops nothing else."""
    for jobs in recipe:
        with _noting(jobs[0].extractor.name):
            # The plan needs the network even where nothing else has to be done: it says which weights are measured.
            network = jobs[0].network if {"plan", "calibrate", "extract"} & set(jobs[0].stages) else None
            done = _measured(jobs, network)
            finished.extend(done)
            if done:
                run(done[-1], ("compare",))
    if finished:
        with _noting(SITE):
            run(finished[-1], ("publish",))


def _measured(jobs: Sequence[Settings], network: Extractor | None) -> list[Settings]:
    """Bring the VDNAs of an extractor up to date; those that are."""
    done = []
    for number, job in enumerate(jobs, start=1):
        name = f"{job.dataset.name}, {job.extractor.name}"
        log.info("%s: %d of %d", name, number, len(jobs))
        job.share(network)
        with _noting(name):
            run(job, ("plan",))
            if "calibrate" in job.stages:
                _stage("calibrate").run(job, strict=False)
            run(job, ("extract", "reduce"))
            if REPORTED & set(job.stages):
                job.spec()  # says what is missing, where the stages before were not asked for
            done.append(job)
        job.share(None)  # or the report at the end would hold the networks of all extractors in memory
    return done


@contextmanager
def _noting(what: str = "") -> Iterator[None]:
    """A mistake or a fault is said and noted, and goes no further."""
    where = f"{what}: " if what else ""
    try:
        yield
    except (UserError, IncompatibleError, ExtractorError, DamagedError) as error:
        failures.append((what, hide(str(error))))
        sys.stderr.write(hide(f"error: {where}{error}\n"))
    except Exception as error:  # a fault of ours; Hydra would print the command with the secrets in it
        failures.append((what, hide(f"{type(error).__name__}: {error}")))
        sys.stderr.write(hide(f"{traceback.format_exc()}error: {where}{type(error).__name__}: {error}\n"))


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """One dataset, which Hydra calls once for each when there are several; or a recipe."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for chatty in ("hydra", "ray", "huggingface_hub", "fsspec", "aiobotocore", "botocore", "urllib3", "numba", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with _noting():
        if cfg.catalogue_recipe.name is None:
            settings = Settings.from_config(cfg)
            run(settings)
            finished.append(settings)
            return
        if is_multirun():
            raise UserError("catalogue_recipe: a recipe is one run, leave -m and experiments of several runs out")
        recipe = recipes.read(cfg.catalogue_recipe.name, choices("catalogue_recipe"))
        batch(recipes.settings_of(recipe, given()))


def command() -> None:
    """`main`, then the matrix; exit code 2 if a dataset failed, 130 when interrupted, 143 when told to end."""
    signal.signal(signal.SIGTERM, _terminate)
    lenient()
    try:
        checked = arguments(sys.argv[1:])
        check_overrides(checked)
        sys.argv[1:] = placed(checked)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # raise what cannot be composed: Hydra would print it, values and all
        try:
            main()
        except UserError:
            raise
        except Exception as error:  # of Hydra, OmegaConf and YAML; what a run raises is noted in it
            raise refused(error, sys.argv[1:]) from None
    except UserError as error:
        failures.append(("", str(error)))
        sys.stderr.write(f"error: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what is done is kept, the same command goes on from here\n")
        sys.exit(130)
    reduced = [settings for settings in finished if REPORTED & set(settings.stages)]
    if reduced:
        report.counted(reduced, console)
        for settings in {settings.extractor.name: settings for settings in reduced}.values():
            report.compared(settings, console)
    if finished and SITE not in dict(failures):
        report.published(finished[-1], console)
    if failures:
        report.failed([(what, why) for what, why in failures if what], console)
        sys.exit(2)


def _terminate(*_: object) -> None:
    """A machine that is to go says so with this signal: end the actors and leave; nothing is half done."""
    sys.stderr.write("terminated: what is done is kept, the same command goes on from here\n")
    raise Terminated(128 + signal.SIGTERM)


if __name__ == "__main__":
    command()
