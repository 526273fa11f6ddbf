"""Check and quote the command line before Hydra reads it, so that neither a shell nor Hydra's grammar changes a value.

checked = arguments(sys.argv[1:])         # UserError names the key and the remedy
sys.argv[1:] = for_hydra(checked)
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from pipeline.config.networks import CONF
from pipeline.errors import UserError
from pipeline.storage.disk import expand_home
from pipeline.storage.urls import is_text

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
"""Keys whose values are texts, taken as typed. Quotes around the whole value are removed."""
LISTS = ("dataset.url",)
"""Keys of `TEXTS` whose value may also be a list in brackets."""
PROSE = ("dataset.description", "dataset.licence", "extractor.licence")
"""Keys in whose values a comma never separates several values."""
OPTIONS = re.compile(r"(dataset\.)?storage\.(.+)")
"""Keys of fsspec options. Their values are texts, taken as typed, except numbers, switches, values in brackets, and
references that Hydra looks up."""
TYPED = re.compile(r"(?i)true|false|null|[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?|\{.*\}|\[.*\]")
LOOKED_UP = re.compile(r"\$\{[^{}]+\}")
QUOTED = re.compile(r"'([^'\\]|\\.)*'|\"([^\"\\]|\\.)*\"")
LIST = re.compile(r"\[([^]['\"]|'[^']*'|\"[^\"]*\")*\]")
FREE = ("storage", "hydra")
"""Keys below which any key is allowed, or is checked elsewhere."""
DATASET = ("name", "url", "description", "licence", "storage", "image_key", "image_column")
ADDED = re.compile(r"\+?(?=(dataset|storage)[^/@=]*=)(?!dataset=)")
"""Keys that may be set with or without a `+`, whether a configuration file has them or not."""
EXPERIMENT = re.compile(r"\+(?=experiment=)")
"""The group `experiment`, which the defaults leave empty. It is chosen with or without a `+`."""
DELETED = re.compile(r"~(dataset|storage|positions)\.|~hydra")
RECIPE = "catalogue_recipe"
FLAGS = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m")
FOLDER = ("--config-dir", "-cd")
FLAGS_WITH_VALUE = (
    *FOLDER,
    *("--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c", "--info", "-i"),
)
"""Hydra's flags, without a value and with one."""
HYDRA_ERRORS = {
    "could not append": "it is set already: leave the + out",
    "could not delete": "there is nothing of that name and value to delete",
    "requires --multirun": "several values need -m; a text with a comma goes in two kinds of quotes: 'KEY=\"TEXT\"'",
    "ambiguous value": "several values need -m; a text with a comma goes in two kinds of quotes: 'KEY=\"TEXT\"'",
    "looks like a config group": "there is no such group; python -m pipeline.run --help lists them",
    "could not override": "unknown key",
    "not in struct": "unknown key",
}
"""Parts of Hydra's messages, in lower case, and the messages shown instead. Hydra's messages contain values, which may
be secret."""


def arguments(words: Sequence[str]) -> list[str]:
    """The words of a command line with texts quoted, so that Hydra keeps their braces, `=`, `?` and `$`.

    Raises `UserError` for an unknown key, and if the shell has already expanded a brace range: Hydra would silently
    keep only its last part.
    """
    keys_of_config = [str(key) for key in OmegaConf.load(CONF / "config.yaml") if key not in ("defaults", "hydra")]
    keys_of_config += [path.name for path in CONF.iterdir() if path.is_dir() and path.name != "__pycache__"]
    several = {"-m", "--multirun"} & set(words)
    keys = Counter(word.partition("=")[0] for word in words if "=" in word)
    if keys["dataset.url"] > 1:
        raise UserError(
            f"dataset.url is given {keys['dataset.url']} times; if the shell expanded a brace range, "
            "put it in quotes: 'dataset.url=s3://bucket/{00000..00127}.tar'"
        )
    datasets = [word for word in words if re.fullmatch(r"dataset=[^\"'\[]*,.*", word)]
    if datasets and (of_one_dataset := [key for key in keys if key.lstrip("+~").startswith("dataset.")]):
        raise UserError(f"{of_one_dataset[0]}: of which dataset? {datasets[0]} names several; run them one by one")
    flags, settings = _split(words)
    result = []
    for argument in _recipe(settings, several):
        key, equals, value = argument.partition("=")
        top = re.split(r"[./@]", key.lstrip("+~"))[0]
        delete = key.startswith("~")
        if (equals or delete) and top not in (*keys_of_config, "hydra"):
            close = difflib.get_close_matches(top, keys_of_config, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{key}: unknown key{hint or ';'} there are {', '.join(sorted(set(keys_of_config)))}")
        if equals or delete:
            _check_nested(key)
        if delete and not DELETED.match(key):
            raise UserError(f"{key}: it cannot be left out; give it another value: {key.lstrip('~')}=VALUE")
        if (name := key.lstrip("+")) in ("storage", "dataset.storage") and not value.startswith(("{", "null")):
            raise UserError(f"{name}: give options one by one, for instance {name}.anon=true")
        text = _is_text(name, value, bool(several))
        result.append(f'{key}="{_escaped(value)}"' if text else argument)
    if (RECIPE in keys or "--help" in words) and "dataset" not in keys:
        result.append("dataset=images")  # Hydra composes the configuration in any case, which needs a dataset
    return [*flags, *result]


def for_hydra(checked: Sequence[str]) -> list[str]:
    """Checked arguments with the prefixes that Hydra wants: `++` for a key that a configuration file may or may not
    have, and no `+` for the group `experiment`, which is in the defaults."""
    words = [word[match.end() :] if (match := EXPERIMENT.match(word)) else word for word in checked]
    return [f"++{word[match.end() :]}" if (match := ADDED.match(word)) else word for word in words]


def composition_error(error: Exception, words: Sequence[str]) -> UserError:
    """An error of Hydra as a `UserError` of one line, without the arguments' values: they may be secret."""
    message = " ".join(f"{error} {error.__cause__ or ''}".split())
    if options := getattr(error, "options", None):
        group, _, name = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        close = difflib.get_close_matches(name, options, 1)
        hint = f"; did you mean {group}={close[0]}?" if close else ";"
        return UserError(f"Could not find '{group}/{name}'{hint} there are {', '.join(options)}")
    if isinstance(key := getattr(error.__cause__, "full_key", None), str) and key:
        _check_nested(key)
    pairs = [argument.partition("=")[::2] for argument in words if "=" in argument]
    for key, value in pairs:
        if f"{key}={value}" in message or f"'{key.lstrip('+~')}'" in message:
            reasons = [reason for part, reason in HYDRA_ERRORS.items() if part in message.lower()]
            reason = reasons[0] if reasons else "Hydra cannot set this; see python -m pipeline.run --help"
            return UserError(f"{key}: {reason}")
    for _, value in pairs:
        message = message.partition(value)[0] if value else message
    return UserError(message or "Hydra cannot compose the configuration")


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, which it expects first, and the settings. Errors do not contain values, which may be secret."""
    flags, settings, last = [], [], ""
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            if not equals and not word.startswith("~"):
                raise UserError(
                    f"the word {f'after {last}' if last else 'at the start'} has no =: give KEY=VALUE, and put what "
                    "has spaces in quotes: 'KEY=VALUE'"
                )
            settings.append(word)
        elif name in FLAGS_WITH_VALUE:
            value = value if equals else next(remaining, "")
            flags += [name, str(expand_home(value)) if name in FOLDER else value]
        elif word in FLAGS:
            flags.append(word)
        else:
            flag_names = ", ".join(FLAGS + FLAGS_WITH_VALUE)
            raise UserError(f"{name}: unknown flag; give settings as KEY=VALUE, and one of {flag_names}")
        last = name
    return flags, settings


def _is_text(key: str, value: str, several: bool) -> bool:
    """Whether a value is a text that has to be quoted for Hydra."""
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
    """Raise `UserError` for an unknown key below a key of conf/config.yaml."""
    tree: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    tree |= {"dataset": dict.fromkeys(DATASET), "cluster": {"address": None}}
    tree["extractor"]["model"] = None
    below = tree
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


def _recipe(settings: Sequence[str], several: Collection[str]) -> Iterator[str]:
    """The settings, with those of a recipe rewritten to the keys of conf/config.yaml.

    Raises `UserError` if a setting beside the recipe selects what is measured.
    """
    names = [argument.partition("=")[2] for argument in settings if argument.startswith(f"{RECIPE}=")]
    urls = []
    for argument in (*several, *settings):
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
    """A value for Hydra's double quotes. Backslashes are doubled only before a quote or the end; `${` is escaped."""
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return escaped.replace("${", "\\${")
