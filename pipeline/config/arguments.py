"""The command line before Hydra reads it: what a shell or Hydra's grammar would silently make something else of."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from pipeline.config.checks import is_text
from pipeline.config.networks import CONF
from pipeline.errors import UserError
from pipeline.storage.disk import named

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
"""Keys whose values are taken from the command line as they are typed, but for quotes around the whole."""
LISTS = ("dataset.url",)
"""Those of them that may also be a list, in brackets."""
PROSE = ("dataset.description", "dataset.licence", "extractor.licence")
"""Those whose commas never part several values."""
OPTIONS = re.compile(r"(dataset\.)?storage\.(.+)")
"""Keys of a store's options: texts as they are typed, but for numbers and switches, what is in brackets, and what Hydra
looks up."""
TYPED = re.compile(r"(?i)true|false|null|[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?|\{.*\}|\[.*\]")
LOOKED_UP = re.compile(r"\$\{[^{}]+\}")
QUOTED = re.compile(r"'([^'\\]|\\.)*'|\"([^\"\\]|\\.)*\"")
LIST = re.compile(r"\[([^]['\"]|'[^']*'|\"[^\"]*\")*\]")
FREE = ("storage", "hydra")
"""Keys below which anything may be named, or something else checks it."""
DATASET = ("name", "url", "description", "licence", "storage", "image_key", "image_column")
PLACED = re.compile(r"\+?(?=(dataset|storage)[^/@=]*=)(?!dataset=)")
"""Keys that are set whether a file of the configuration has them or not: a `+` says nothing of them."""
EXPERIMENT = re.compile(r"\+(?=experiment=)")
"""The group that the defaults leave empty: it is chosen with a `+` before it or without."""
DELETED = re.compile(r"~(dataset|storage|positions)\.|~hydra")
RECIPE = "catalogue_recipe"
ALONE = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m")
FOLDER = ("--config-dir", "-cd")
VALUED = (*FOLDER, "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c", "--info", "-i")
"""Hydra's flags: by themselves, or with a word behind them."""
REFUSED = {
    "could not append": "it is set already: leave the + out",
    "could not delete": "there is nothing of that name and value to delete",
    "requires --multirun": "several values need -m; a text with a comma goes in two kinds of quotes: 'KEY=\"TEXT\"'",
    "ambiguous value": "several values need -m; a text with a comma goes in two kinds of quotes: 'KEY=\"TEXT\"'",
    "looks like a config group": "there is no such group; python -m pipeline.run --help lists them",
    "could not override": "unknown key",
    "not in struct": "unknown key",
}
"""What Hydra says, in lower case, and what is said of it here: Hydra's own texts hold values."""


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
    flags, settings = _apart(given)
    result = []
    for argument in _recipe(settings, several):
        key, equals, value = argument.partition("=")
        top = re.split(r"[./@]", key.lstrip("+~"))[0]
        delete = key.startswith("~")
        if (equals or delete) and top not in (*known, "hydra"):
            close = difflib.get_close_matches(top, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{key}: unknown key{hint or ';'} there are {', '.join(sorted(set(known)))}")
        if equals or delete:
            _check_nested(key)
        if delete and not DELETED.match(key):
            raise UserError(f"{key}: it cannot be left out; give it another value: {key.lstrip('~')}=VALUE")
        if (name := key.lstrip("+")) in ("storage", "dataset.storage") and not value.startswith(("{", "null")):
            raise UserError(f"{name}: give options one by one, for instance {name}.anon=true")
        text = _is_text(name, value, bool(several))
        result.append(f'{key}="{_escaped(value)}"' if text else argument)
    if (RECIPE in keys or "--help" in given) and "dataset" not in keys:
        result.append("dataset=images")  # Hydra composes the configuration in any case, and would ask for one
    return [*flags, *result]


def placed(checked: Sequence[str]) -> list[str]:
    """Arguments as Hydra wants them: `++` before what a file of the configuration may or may not have, and no `+`
    before the group `experiment`, which is in the defaults."""
    chosen = [argument[found.end() :] if (found := EXPERIMENT.match(argument)) else argument for argument in checked]
    return [f"++{argument[found.end() :]}" if (found := PLACED.match(argument)) else argument for argument in chosen]


def refused(error: Exception, given: Sequence[str]) -> UserError:
    """What Hydra cannot compose of these arguments, in one line and without their values: they may be secret."""
    said = " ".join(f"{error} {error.__cause__ or ''}".split())
    if options := getattr(error, "options", None):
        group, _, name = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        close = difflib.get_close_matches(name, options, 1)
        hint = f"; did you mean {group}={close[0]}?" if close else ";"
        return UserError(f"Could not find '{group}/{name}'{hint} there are {', '.join(options)}")
    if isinstance(key := getattr(error.__cause__, "full_key", None), str) and key:
        _check_nested(key)
    pairs = [argument.partition("=")[::2] for argument in given if "=" in argument]
    for key, value in pairs:
        if f"{key}={value}" in said or f"'{key.lstrip('+~')}'" in said:
            why = [here for theirs, here in REFUSED.items() if theirs in said.lower()]
            return UserError(f"{key}: {why[0] if why else 'Hydra cannot set this; see python -m pipeline.run --help'}")
    for _, value in pairs:
        said = said.partition(value)[0] if value else said
    return UserError(said or "Hydra cannot compose the configuration")


def _apart(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, which it wants first, and the settings. No error has a value: it may be part of a secret."""
    flags, settings, last = [], [], ""
    words = iter(given)
    for word in words:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            if not equals and not word.startswith("~"):
                raise UserError(
                    f"the word {f'after {last}' if last else 'at the start'} has no =: give KEY=VALUE, and put what "
                    "has spaces in quotes: 'KEY=VALUE'"
                )
            settings.append(word)
        elif name in VALUED:
            value = value if equals else next(words, "")
            flags += [name, str(named(value)) if name in FOLDER else value]
        elif word in ALONE:
            flags.append(word)
        else:
            raise UserError(f"{name}: unknown flag; give settings as KEY=VALUE, and one of {', '.join(ALONE + VALUED)}")
        last = name
    return flags, settings


def _is_text(key: str, value: str, several: bool) -> bool:
    """Whether Hydra would have to be told that a value is a text."""
    if not value or QUOTED.fullmatch(value):
        return False
    if option := OPTIONS.fullmatch(key):
        if is_text(option[2]):
            return not LOOKED_UP.fullmatch(value)
        return not TYPED.fullmatch(value) and not LOOKED_UP.search(value)
    if several and "," in value and key not in PROSE:
        return False
    return key in TEXTS and not (key in LISTS and LIST.fullmatch(value))


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


def _recipe(given: Sequence[str], several: Collection[str]) -> Iterator[str]:
    """What is said of a recipe, as keys of conf/config.yaml; the rest as it is.

    Raises `UserError` if something beside the recipe says what to measure.
    """
    names = [argument.partition("=")[2] for argument in given if argument.startswith(f"{RECIPE}=")]
    urls = []
    for argument in (*several, *given):
        key, _, value = argument.partition("=")
        parts = key.lstrip("+~").split(".")
        if parts[0] == RECIPE and not names:
            raise UserError(f"{key}: which recipe? add {RECIPE}=NAME")
        if names and (parts[0] in ("dataset", "extractor") or key in several):
            raise UserError(
                f"{argument}: leave it out, {RECIPE}={names[0]} says what is measured; only some of its datasets: "
                f"{RECIPE}.only=[NAME,NAME]"
            )
        if key in several:
            continue
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
