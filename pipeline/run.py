"""The command: a dataset through an extractor into a catalogue.

    python -m pipeline.run dataset=demo_digits extractor=efficientnet_lite0
    python -m pipeline.run -m dataset=demo_digits,demo_faces
    python -m pipeline.run dataset=images dataset.name=mine dataset.url=photos/ catalogue=s3://bucket/catalogue

Runs the stages asked for, in order. A mistake of the user's is one line on standard error and exit
code 2; with several datasets the others go on. What is done is kept whatever happens.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import traceback
from typing import Any

import hydra
from omegaconf import DictConfig

from distributions import IncompatibleError
from extractors import ExtractorError
from pipeline import report
from pipeline.arguments import arguments
from pipeline.config import Settings
from pipeline.errors import DamagedError, UserError
from pipeline.networks import CONF
from pipeline.objects import hide
from pipeline.progress import console

finished: list[Settings] = []
failures: list[str] = []


def run(settings: Settings) -> None:
    """Every stage asked for, in order; partials that reduce finds damaged are made again."""
    for stage in settings.stages:
        try:
            _stage(stage).run(settings)
        except DamagedError as error:
            if stage != "reduce" or "extract" not in settings.stages:
                raise
            logging.getLogger(__name__).warning("%s", hide(str(error)))
            _stage("extract").run(settings)
            _stage("reduce").run(settings)


def _stage(name: str) -> Any:
    return importlib.import_module(f"pipeline.stages.{name}")


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """One dataset; Hydra calls it once for each when there are several."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for chatty in ("ray", "huggingface_hub", "fsspec", "aiobotocore", "botocore", "urllib3", "numba", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        settings = Settings.from_config(cfg)
        run(settings)
        finished.append(settings)
    except (UserError, IncompatibleError, ExtractorError, DamagedError) as error:
        failures.append(str(error))
        sys.stderr.write(hide(f"error: {error}\n"))
    except Exception as error:  # a fault of ours; Hydra would print the command with the secrets in it
        failures.append(str(error))
        sys.stderr.write(hide(f"{traceback.format_exc()}error: {type(error).__name__}: {error}\n"))


def command() -> None:
    """`main`, then the matrix; exit code 2 if a dataset failed, 130 when interrupted, 143 when told to end."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        sys.argv[1:] = arguments(sys.argv[1:])
        main()
    except UserError as error:
        failures.append(str(error))
        sys.stderr.write(f"error: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what is done is kept, the same command goes on from here\n")
        sys.exit(130)
    reduced = [settings for settings in finished if {"reduce", "compare", "publish"} & set(settings.stages)]
    if reduced:
        report.counted(reduced, console)
        report.compared(reduced[-1], console)
    if failures:
        sys.exit(2)


def _terminate(*_: object) -> None:
    """A machine that is to go says so with this signal: end the actors and leave; nothing is half done."""
    sys.stderr.write("terminated: what is done is kept, the same command goes on from here\n")
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    command()
