"""The command that measures datasets with an extractor for a catalogue.

    python -m pipeline.run dataset=demo_digits extractor=efficientnet_lite0
    python -m pipeline.run -m dataset=demo_digits,demo_faces
    python -m pipeline.run dataset=images dataset.name=mine dataset.url=photos/ catalogue=s3://bucket/catalogue
    python -m pipeline.run catalogue_recipe=reference catalogue=s3://bucket/catalogue

The command runs the configured stages in order. A user's mistake gives one line on standard error and exit code 2; if
there are several datasets, the others are still measured. Finished work is always kept.
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
from pipeline.config.arguments import arguments, composition_error, for_hydra
from pipeline.config.composition import check_overrides, choices, command_overrides, is_multirun, read
from pipeline.config.networks import CONF
from pipeline.errors import Terminated, UserError
from pipeline.terminal import console, lenient


def start(runs: Runs, cfg: DictConfig) -> None:
    """Run one dataset or a recipe. With several datasets, Hydra calls this function once for each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    for library in ("hydra", "ray", "huggingface_hub", "fsspec", "aiobotocore", "botocore", "urllib3", "numba", "timm"):
        logging.getLogger(library).setLevel(logging.WARNING)
    with runs.recording():
        if cfg.catalogue_recipe.name is None:
            runs.run_dataset(read(cfg))
            return
        if is_multirun():
            raise UserError("catalogue_recipe: a recipe is one run, leave -m and experiments of several runs out")
        recipe = recipes.read(cfg.catalogue_recipe.name, choices("catalogue_recipe"))
        runs.run_recipe(recipes.settings_of(recipe, command_overrides()))


def command() -> None:
    """Run the command and print the report. Exit code 2: a dataset failed; 130: interrupted; 143: terminated."""
    signal.signal(signal.SIGTERM, _terminate)
    lenient()
    runs = Runs()

    @hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
    def main(cfg: DictConfig) -> None:
        start(runs, cfg)

    try:
        checked = arguments(sys.argv[1:])
        check_overrides(checked)
        sys.argv[1:] = for_hydra(checked)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors: it would print them, with values
        try:
            main()
        except UserError:
            raise
        except Exception as error:  # an error of Hydra, OmegaConf or YAML; errors of a run are recorded in it
            raise composition_error(error, sys.argv[1:]) from None
        finally:
            runs.end_spares()
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
    """Handle the signal of a machine that will stop: raise `Terminated`, which ends the actors and the command."""
    sys.stderr.write("terminated: what is done is kept, the same command goes on from here\n")
    raise Terminated(128 + signal.SIGTERM)


if __name__ == "__main__":
    command()
