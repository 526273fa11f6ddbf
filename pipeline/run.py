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
import sys

import hydra
from omegaconf import DictConfig

from distributions import IncompatibleError
from extractors import ExtractorError
from pipeline import report
from pipeline.arguments import arguments
from pipeline.config import CONF, Settings
from pipeline.errors import UserError
from pipeline.groups import DamagedError
from pipeline.progress import console

finished: list[Settings] = []
failures: list[str] = []


def run(settings: Settings) -> None:
    """Every stage asked for, in order."""
    for stage in settings.stages:
        importlib.import_module(f"pipeline.stages.{stage}").run(settings)


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
        sys.stderr.write(f"error: {error}\n")


def command() -> None:
    """`main`, then the matrix; exit code 2 if a dataset failed, 130 when interrupted."""
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


if __name__ == "__main__":
    command()
