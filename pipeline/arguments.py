"""The command line before Hydra reads it: what a shell or Hydra's grammar would silently make something else of."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from pipeline.errors import UserError
from pipeline.networks import CONF

TEXTS = (
    *("dataset.url", "dataset.name", "dataset.description", "catalogue", "ranges", "extractor.weights"),
    *("extractor.pretrained", "extractor.sha256", "extractor.prefix", "extractor.ranges"),
    *(
        "dataset.image_key",
        "dataset.image_column",
        "dataset.licence",
        "extractor.licence",
        "extractor.model",
        "extractor.name",
        "cluster.address",
    ),
)
"""Keys whose values are taken from the command line as they are typed."""
OPTIONS = re.compile(r"(dataset\.)?storage\..+")
"""Keys of a store's options: texts as they are typed, but for numbers and switches, and for what Hydra looks up."""
TYPED = re.compile(r"(?i)true|false|null|[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?|.*\$\{.*")
FREE = ("storage", "positions", "hydra")
"""Keys below which anything may be named, or something else checks it."""
DATASET = ("name", "url", "description", "licence", "storage", "image_key", "image_column")
RECIPE = "catalogue_recipe"


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
    datasets = [argument for argument in given if re.fullmatch(r"dataset=[^\"'\[]*,.*", argument)]
    if datasets and (of_one := [key for key in keys if key.lstrip("+~").startswith("dataset.")]):
        raise UserError(f"{of_one[0]}: of which dataset? {datasets[0]} names several; run them one by one")
    result = []
    for argument in _recipe(given):
        key, equals, value = argument.partition("=")
        top = re.split(r"[./@]", key.lstrip("+~"))[0]
        if equals and not argument.startswith("-") and top not in (*known, "hydra"):
            close = difflib.get_close_matches(top, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{key}: unknown key{hint or ';'} there are {', '.join(sorted(set(known)))}")
        if equals and not argument.startswith("-"):
            _check_nested(key)
        plain = value[:1] not in ("'", '"', "[", "") and not (several and "," in value)
        name = key.lstrip("+")
        text = name in TEXTS or bool(OPTIONS.fullmatch(name) and value[:1] != "{" and not TYPED.fullmatch(value))
        result.append(f'{key}="{_escaped(value)}"' if text and plain else argument)
    if (RECIPE in keys or "--help" in given) and "dataset" not in keys:
        result.append("dataset=images")  # Hydra composes the configuration in any case, and would ask for one
    return result


def _check_nested(key: str) -> None:
    """Raise `UserError` for a key below one of conf/config.yaml's that is not there."""
    known: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    known |= {"dataset": dict.fromkeys(DATASET), "cluster": {"address": None}}
    known["extractor"]["model"] = None
    below = known
    parts = key.lstrip("+~").split(".")
    for i, part in enumerate(parts):
        if i and part not in below:
            close = difflib.get_close_matches(part, below, 1)
            name = ".".join(parts[:i])
            hint = f"; did you mean {name}.{close[0]}?" if close else ";"
            raise UserError(f"{key}: unknown key{hint} {name} has {', '.join(sorted(map(str, below)))}")
        below = below.get(part)
        if part in FREE or not isinstance(below, dict):
            return


def _recipe(given: Sequence[str]) -> Iterator[str]:
    """What is said of a recipe, as keys of conf/config.yaml; the rest as it is.

    Raises `UserError` if something beside the recipe says what to measure.
    """
    names = [argument.partition("=")[2] for argument in given if argument.startswith(f"{RECIPE}=")]
    urls = []
    for argument in given:
        key, _, value = argument.partition("=")
        parts = key.lstrip("+~").split(".")
        if parts[0] == RECIPE and not names:
            raise UserError(f"{key}: which recipe? add {RECIPE}=NAME")
        if names and (parts[0] in ("dataset", "extractor") or key in ("-m", "--multirun")):
            raise UserError(
                f"{argument}: leave it out, {RECIPE}={names[0]} says what is measured; only some of its datasets: "
                f"{RECIPE}.only=[NAME,NAME]"
            )
        if key == RECIPE:
            yield f'{RECIPE}.name="{_escaped(value)}"'
        elif parts[:2] == [RECIPE, "datasets"]:
            if len(parts) < 4 or parts[-1] != "url":
                raise UserError(f"{key}: of a recipe's dataset its url can be given: {RECIPE}.datasets.NAME.url=URL")
            urls.append(f'"{_escaped(".".join(parts[2:-1]) + "=" + value)}"')
        else:
            yield argument
    if urls:
        yield f"{RECIPE}.urls=[{','.join(urls)}]"


def _escaped(value: str) -> str:
    """For Hydra's double quotes: a backslash is doubled only before a quote or the end, and `${` is no reference."""
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return escaped.replace("${", "\\${")
