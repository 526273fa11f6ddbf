"""Read recipes. A recipe is a file of `conf/catalogue_recipe` with a batch of datasets and extractors.

    recipe = read("reference", choices("catalogue_recipe"))     # UserError names the file and the key
    for jobs in settings_of(recipe, ["catalogue=s3://bucket/catalogue", "actors=8"]):
        ...                                                     # the Settings of an extractor's datasets

An example of a file, in which only `extractors` and `datasets` are required:

    description: What it is for
    extractors: [dino_vit_base, {extractor: timm, extractor.model: resnet50, batch_size: 64}]
    calibration: {datasets: [mine, wds_cars], max_tasks: 2}     # for the histogram axes; default: all
    datasets:
      - demo_digits                                             # of conf/dataset
      - {name: mine, url: 's3://bucket/{00..12}.tar', licence: CC0-1.0}
      - {each: [cars, mnist], name: 'wds_{each}', url: 'hf://datasets/clip-benchmark/wds_{each}/test/*.tar'}
    settings: {max_bad_fraction: 0.1}                           # of conf/config.yaml; the command line overrides them

A dataset with the url `???` is left out unless the command line has `catalogue_recipe.datasets.NAME.url=URL`.
"""

from __future__ import annotations

import copy
import difflib
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.config.composition import choices, composed, dataset_config
from pipeline.config.composition import read as read_settings
from pipeline.config.networks import CONF
from pipeline.config.settings import DatasetConfig, Settings
from pipeline.errors import UserError
from pipeline.storage.disk import expand_home

log = logging.getLogger(__name__)

KEYS = ("description", "extractors", "calibration", "datasets", "settings")
DATASET = ("name", "url", "description", "licence", "storage", "image_key", "image_column")
EXTRACTOR_KEYS = ("layers", "precision", "compile", "positions", "batch_size")
"""Keys that an extractor of a recipe may set, besides `extractor.…`."""
NO_SETTINGS = ("dataset", "extractor", "cluster", "calibration", "catalogue_recipe", "defaults", "hydra")
"""Keys of conf/config.yaml that are not allowed in a recipe's `settings`. Other parts of the recipe or the command line
set them."""
EACH = "{each}"
NO_URL = (None, "", "???")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. A dataset may have no url yet."""

    path: Path
    extractors: tuple[Mapping[str, Any], ...]
    datasets: Mapping[str, Mapping[str, Any]]
    calibration: tuple[str, ...]
    settings: Mapping[str, Any]


def read(name: str, files: Mapping[str, Path]) -> Recipe:
    """Read a recipe by its name in `files`, or by a path. `UserError` names the file and the key of a mistake."""
    path = files.get(name) or expand_home(name)
    if name not in files and not (path.suffix in (".yaml", ".yml") and path.is_file()):
        raise UserError(f"catalogue_recipe={name}: no such recipe; there are {', '.join(sorted(files)) or 'none'}")
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # errors of YAML, OmegaConf or the disk
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    _keys(path, "", content, KEYS)
    for key in ("extractors", "datasets"):
        if not isinstance(content.get(key), list) or not content[key]:
            raise _wrong(path, key, "give a list with one at least")
    extractors = tuple(_extractor(path, i, entry) for i, entry in enumerate(content["extractors"]))
    datasets = [d for i, entry in enumerate(content["datasets"]) for d in _datasets(path, f"datasets[{i}]", entry)]
    names = [d["name"] for d in datasets]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise _wrong(
            path, "datasets", f"{twice[0]} is there twice; a name is one folder of the catalogue, so change one"
        )
    settings = content.get("settings") or {}
    allowed = [str(key) for key in OmegaConf.load(CONF / "config.yaml") if key not in NO_SETTINGS]
    _keys(path, "settings", settings, allowed)
    calibration = content.get("calibration") or {}
    _keys(path, "calibration", calibration, ("datasets", "max_tasks"))
    axes = calibration.get("datasets", names)
    if not isinstance(axes, list) or not axes:
        raise _wrong(path, "calibration.datasets", "give a list of names")
    if unknown := [name for name in map(str, axes) if name not in names]:
        raise _wrong(path, "calibration.datasets", f"no dataset {unknown[0]} here; there are {', '.join(names)}")
    if "max_tasks" in calibration:
        settings = {**settings, "calibration.max_tasks": calibration["max_tasks"]}
    return Recipe(path, extractors, {d["name"]: d for d in datasets}, tuple(map(str, axes)), settings)


def settings_of(recipe: Recipe, overrides: Sequence[str]) -> list[list[Settings]]:
    """The settings of every dataset, one list for each extractor.

    `overrides` are those of the command line. Everything is checked before anything runs: `UserError` names the
    mistake. Datasets without a url are left out with a warning.
    """
    choice: Any = OmegaConf.to_container(composed(overrides).catalogue_recipe, resolve=True)
    urls = dict(str(url).partition("=")[::2] for url in choice["urls"])
    only = _list(choice["only"])
    for key, names in (("catalogue_recipe.datasets", urls), ("catalogue_recipe.only", only)):
        if unknown := [name for name in names if name not in recipe.datasets]:
            raise UserError(f"{key}: no dataset {unknown[0]} in {recipe.path}; there are {', '.join(recipe.datasets)}")
    datasets = {}
    for name, entry in recipe.datasets.items():
        if entry["url"] not in NO_URL or name in urls:
            datasets[name] = _checked(recipe.path, {**entry, "url": urls.get(name, entry["url"])})
            continue
        hint = f"it has no url in {recipe.path.name}; give 'catalogue_recipe.datasets.{name}.url=URL'"
        if name in only:
            raise UserError(f"catalogue_recipe.only: {name} cannot be measured, {hint}")
        if not only:
            log.warning("%s is left out: %s", name, hint)
    chosen = [datasets[name] for name in dict.fromkeys(only)] if only else list(datasets.values())
    if not chosen:
        raise _wrong(recipe.path, "datasets", "none has a url; give 'catalogue_recipe.datasets.NAME.url=URL'")
    result = [list(_jobs(recipe, entry, overrides, chosen, datasets)) for entry in recipe.extractors]
    names = [jobs[0].extractor.name for jobs in result]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise _wrong(recipe.path, "extractors", f"two are called {twice[0]}; give one another extractor.name")
    return result


def _jobs(
    recipe: Recipe,
    entry: Mapping[str, Any],
    overrides: Sequence[str],
    chosen: Sequence[DatasetConfig],
    datasets: Mapping[str, DatasetConfig],
) -> Iterator[Settings]:
    """The settings of an extractor's datasets. The recipe's settings override the configuration, those of its extractor
    override the recipe's, and the command line overrides both."""
    composed_cfg = composed([*overrides, f"extractor={entry['extractor']}"])
    cfg = copy.deepcopy(composed_cfg)
    keys = [argument.partition("=")[0].lstrip("+") for argument in overrides]
    last = {key: OmegaConf.select(composed_cfg, key) for key in keys if not key.startswith(("~", "hydra"))}
    own = {key: value for key, value in entry.items() if key != "extractor"}
    for key, value in (*recipe.settings.items(), *own.items(), *last.items()):
        OmegaConf.update(cfg, key, value, force_add=True)
    axes = _list(cfg.calibration.datasets) or list(recipe.calibration)
    if unknown := [name for name in axes if name not in recipe.datasets]:
        raise UserError(f"calibration.datasets: no dataset {unknown[0]} in {recipe.path}")
    # All of the recipe's datasets, not only those of this command: the axes stay for all later commands.
    calibration = tuple(datasets[name] for name in axes if name in datasets)
    if not calibration:
        raise UserError(f"calibration.datasets: {', '.join(axes)} of {recipe.path} has no url")
    cfg.calibration.datasets = None
    cfg.dataset = {"name": "each", "url": "each"}  # each job gets its own dataset below
    try:
        settings = read_settings(cfg)
    except UserError as error:
        raise UserError(f"{recipe.path}, with extractor {entry['extractor']}: {error}") from None
    for dataset in chosen:
        yield replace(settings, dataset=dataset, calibration=calibration)


def _extractor(path: Path, index: int, entry: Any) -> Mapping[str, Any]:
    place = f"extractors[{index}]"
    entry = {"extractor": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("extractor"), str):
        raise _wrong(path, place, "give a name of conf/extractor, or {extractor: NAME, extractor.KEY: VALUE}")
    if entry["extractor"] not in choices("extractor"):
        names = ", ".join(sorted(choices("extractor")))
        raise _wrong(path, place, f"no extractor {entry['extractor']}; there are {names}")
    own = [key for key in map(str, entry) if not key.startswith("extractor.")]
    _keys(path, place, dict.fromkeys(own), ("extractor", *EXTRACTOR_KEYS))
    return entry


def _datasets(path: Path, place: str, entry: Any) -> list[dict[str, Any]]:
    """The datasets of an entry: one dataset, or one for each name in `each`. A dataset may have no url yet."""
    if isinstance(entry, str):
        files = choices("dataset")
        if entry not in files or entry == "images":
            names = ", ".join(sorted(set(files) - {"images"}))
            raise _wrong(path, place, f"no dataset {entry} in conf/dataset; give {{name: , url: }}, or one of {names}")
        content: Any = OmegaConf.to_container(OmegaConf.load(files[entry]), resolve=True)
        entry = {key: content.get(key) for key in DATASET}
    _keys(path, place, entry, (*DATASET, "each"))
    texts = {key: entry.get(key, "") for key in ("name", "description", "licence")}
    if wrong := [key for key, value in texts.items() if not isinstance(value, str | int | None)]:
        raise _wrong(path, f"{place}.{wrong[0]}", "give a text")
    url = entry.get("url")
    if not isinstance(url, str | None) and not (isinstance(url, list) and all(isinstance(u, str) for u in url)):
        raise _wrong(path, f"{place}.url", "give a path, glob or URL, or a list of them")
    each = entry.get("each")
    if each is not None and (not isinstance(each, list) or not each or not all(isinstance(e, str | int) for e in each)):
        raise _wrong(path, f"{place}.each", "give a list of names")
    if each is not None and EACH not in str(texts["name"]):
        raise _wrong(path, f"{place}.name", f"{EACH} has to be part of it, or all of them would have one name")
    plain = {**texts, "url": url, "storage": entry.get("storage")}
    datasets = [{key: _filled(value, str(name)) for key, value in plain.items()} for name in each or [EACH]]
    for dataset in datasets:
        # A missing url is checked once it is given; everything else is checked now.
        _checked(path, {**dataset, "url": "open"} if dataset["url"] in NO_URL else dataset, place)
    return datasets


def _list(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else [str(name) for name in names or ()]


def _filled(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_filled(item, name) for item in value]
    return str(value).replace(EACH, name) if isinstance(value, str | int) else value


def _checked(path: Path, dataset: Mapping[str, Any], place: str = "datasets") -> DatasetConfig:
    try:
        return dataset_config(dataset)
    except UserError as error:
        raise _wrong(path, place, str(error)) from None


def _keys(path: Path, place: str, content: Any, allowed: Collection[str]) -> None:
    if not isinstance(content, dict):
        raise _wrong(path, place or "it", f"give keys and values; the keys are {', '.join(allowed)}")
    for key in map(str, content):
        if key.partition(".")[0] not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(allowed)}"
            raise _wrong(path, f"{place}.{key}" if place else key, f"unknown key; {hint}")


def _wrong(path: Path, key: str, what: str) -> UserError:
    return UserError(f"{path}: {key}: {what}")
