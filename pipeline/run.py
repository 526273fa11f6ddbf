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
import warnings

import hydra
from omegaconf import DictConfig

from distributions import IncompatibleError
from extractors import ExtractorError
from pipeline.config import CONF, Settings
from pipeline.errors import UserError
from pipeline.report import show

log = logging.getLogger(__name__)

failures: list[str] = []


def run(settings: Settings) -> None:
    """Every stage asked for, in order, then what came of it."""
    for stage in settings.stages:
        importlib.import_module(f"pipeline.stages.{stage}").run(settings)
    show(settings)


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("ray").setLevel(logging.ERROR)
    for chatty in ("huggingface_hub", "fsspec", "aiobotocore", "botocore", "urllib3", "numba", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        run(Settings.from_config(cfg))
    except (UserError, IncompatibleError, ExtractorError) as error:
        failures.append(str(error))
        sys.stderr.write(f"error: {error}\n")


def command() -> None:
    """`main`, with exit code 2 if a dataset failed and 130 when interrupted."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what is done is kept, the same command goes on from here\n")
        sys.exit(130)
    if failures:
        sys.exit(2)


if __name__ == "__main__":
    command()
