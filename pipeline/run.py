"""The command: a dataset through an extractor into a catalogue.

    python -m pipeline.run dataset=demo_digits extractor=efficientnet_lite0
    python -m pipeline.run -m dataset=demo_digits,demo_faces
    python -m pipeline.run dataset=images dataset.name=mine dataset.url=photos/ catalogue=s3://bucket/catalogue
    python -m pipeline.run catalogue_recipe=reference catalogue=s3://bucket/catalogue

Runs the stages asked for, in order. A mistake of the user's is one line on standard error and exit
code 2; with several datasets the others go on. What is done is kept whatever happens.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

try:
    import hydra
    from omegaconf import DictConfig
except ModuleNotFoundError as error:
    raise SystemExit(
        f"error: the pipeline needs {error.name}: pip install '.[run]', in this program's folder"
    ) from None

from pipeline.cli import recipes
from pipeline.cli.runs import Runs
from pipeline.config.arguments import arguments, placed, refused
from pipeline.config.composition import check_overrides, choices, given, is_multirun, read
from pipeline.config.networks import CONF
from pipeline.errors import Terminated, UserError
from pipeline.terminal import console, lenient


def start(runs: Runs, cfg: DictConfig) -> None:
    """One dataset, for which Hydra calls this once each when there are several; or a recipe."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for chatty in ("hydra", "ray", "huggingface_hub", "fsspec", "aiobotocore", "botocore", "urllib3", "numba", "timm"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with runs.noting():
        if cfg.catalogue_recipe.name is None:
            runs.one(read(cfg))
            return
        if is_multirun():
            raise UserError("catalogue_recipe: a recipe is one run, leave -m and experiments of several runs out")
        recipe = recipes.read(cfg.catalogue_recipe.name, choices("catalogue_recipe"))
        runs.batch(recipes.settings_of(recipe, given()))


def command() -> None:
    """Every run, then the report; exit code 2 if a dataset failed, 130 when interrupted, 143 when told to end."""
    signal.signal(signal.SIGTERM, _terminate)
    lenient()
    runs = Runs()

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def main(cfg: DictConfig) -> None:
        start(runs, cfg)

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
        runs.failures.append(("", str(error)))
        sys.stderr.write(f"error: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what is done is kept, the same command goes on from here\n")
        sys.exit(130)
    runs.report(console)
    if runs.failures:
        sys.exit(2)


def _terminate(*_: object) -> None:
    """A machine that is to go says so with this signal: end the actors and leave; nothing is half done."""
    sys.stderr.write("terminated: what is done is kept, the same command goes on from here\n")
    raise Terminated(128 + signal.SIGTERM)


if __name__ == "__main__":
    command()
