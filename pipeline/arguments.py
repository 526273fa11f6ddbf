"""The command line before Hydra reads it: what a shell or Hydra's grammar would silently make something else of."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence

from omegaconf import OmegaConf

from pipeline.errors import UserError
from pipeline.networks import CONF

TEXTS = (
    *("dataset.url", "dataset.name", "dataset.description", "catalogue", "ranges", "extractor.weights"),
    *("extractor.pretrained", "extractor.sha256", "extractor.prefix", "extractor.ranges"),
)
"""Keys whose values are taken from the command line as they are typed."""


def arguments(given: Sequence[str]) -> list[str]:
    """The command line as Hydra has to see it: free texts quoted, so that braces, `=`, `?` and `$` stay what they are.

    Raises `UserError` for an unknown key, and if the shell has split a brace range already: Hydra would
    silently keep the last part.
    """
    known = [str(key) for key in OmegaConf.load(CONF / "config.yaml") if key not in ("defaults", "hydra")]
    known += [path.name for path in CONF.iterdir() if path.is_dir() and path.name != "__pycache__"]
    several = {"-m", "--multirun"} & set(given)
    keys = Counter(argument.partition("=")[0] for argument in given if "=" in argument)
    if keys["dataset.url"] > 1:
        raise UserError(
            f"dataset.url is given {keys['dataset.url']} times; if the shell expanded a brace range, "
            "put it in quotes: 'dataset.url=s3://bucket/{00000..00127}.tar'"
        )
    result = []
    for argument in given:
        key, equals, value = argument.partition("=")
        top = re.split(r"[./@]", key.lstrip("+~"))[0]
        if equals and not argument.startswith("-") and top not in (*known, "hydra"):
            close = difflib.get_close_matches(top, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{key}: unknown key{hint or ';'} there are {', '.join(sorted(known))}")
        plain = value[:1] not in ("'", '"', "[", "") and not (several and "," in value)
        result.append(f'{key}="{_escaped(value)}"' if key in TEXTS and plain else argument)
    if "--help" in given and not any(argument.startswith("dataset=") for argument in given):
        result.append("dataset=images")  # Hydra composes the configuration to print it, and would ask for one
    return result


def _escaped(value: str) -> str:
    """For Hydra's double quotes: a backslash is doubled only before a quote or the end, and `${` is no reference."""
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return escaped.replace("${", "\\${")
