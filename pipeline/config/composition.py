"""Turn Hydra's configuration into plain, checked settings.

    settings = read(cfg)                      # UserError names the key and the allowed values

Only this module and the command import Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distributions.spec import POSITIONS, bins_of
from pipeline.config.arguments import composition_error, for_hydra
from pipeline.config.checks import number, one_of, options, several, text, whole
from pipeline.config.networks import CONF, extractor_config
from pipeline.config.settings import STAGES, DatasetConfig, PoolConfig, Settings
from pipeline.errors import UserError
from pipeline.formats.manifests import NAME


def read(cfg: DictConfig) -> Settings:
    """Check every key and return the settings of a run. Raises `UserError` for the first wrong value."""
    c = plain(cfg)
    dataset = dataset_config(c["dataset"])
    distributions = several(c, "distributions")
    for name in distributions:
        try:
            bins_of(name)
        except ValueError as error:
            raise UserError(f"distributions: {error}") from None
    if len({"histogram" if bins_of(name) else name for name in distributions}) < len(distributions):
        raise UserError(f"distributions={list(distributions)}: each kind can be asked for once")
    stages = several(c, "stages")
    for name in stages:
        one_of("stages", name, STAGES)
    pool = PoolConfig(
        actors=None if c["actors"] == "auto" else whole(c, "actors"),
        device=one_of("device", c["device"], ("auto", "cpu", "cuda")),
        threads=None if c["threads"] == "auto" else whole(c, "threads"),
        gpus_per_actor=None if c["gpus_per_actor"] == "auto" else number(c, "gpus_per_actor", 0),
        attempts=whole(c, "attempts"),
        address=c["cluster"]["address"],
    )
    names = c["calibration"]["datasets"]
    names = [names] if isinstance(names, str) else names
    if not c["catalogue"]:
        raise UserError("catalogue is empty; give a folder or URL: catalogue=catalogue")
    swept = [name for name in SweptDatasets.names if name != "images"]
    calibration = [dataset_named(name) for name in (swept if names is None else names)]
    return Settings(
        dataset=dataset,
        extractor=extractor_config(c["extractor"], c["layers"], c["precision"], c["compile"]),
        catalogue=str(c["catalogue"]),
        storage=options("storage", c["storage"]),
        distributions=distributions,
        positions=_positions(c["positions"]),
        stages=tuple(name for name in STAGES if name in stages),
        pool=pool,
        batch_size=whole(c, "batch_size"),
        decode_threads=whole(c, "decode_threads"),
        max_bad_fraction=number(c, "max_bad_fraction", 0, 1),
        patience=number(c, "patience", 1),
        shards_per_task=whole(c, "shards_per_task"),
        images_per_shard=whole(c, "images_per_shard"),
        thumbnails=None if c["thumbnails"] is None else int(number(c, "thumbnails", 0)),
        ranges=str(c["ranges"]),
        calibration=tuple(calibration) or (dataset,),
        calibration_max_tasks=(None if c["calibration"]["max_tasks"] is None else whole(c["calibration"], "max_tasks")),
    )


def dataset_named(name: str) -> DatasetConfig:
    """A dataset of `conf/dataset`, or of `--config-dir`, by the name of its file. `UserError` if there is none."""
    files = choices("dataset")
    if name not in files:
        raise UserError(f"calibration.datasets: no dataset {name}; there are {', '.join(sorted(files))}")
    return dataset_config(plain(OmegaConf.load(files[name])))


def _positions(positions: Any) -> dict[str, str]:
    """The positions that differ from the defaults, by kind of distribution."""
    if not isinstance(positions, dict):
        raise UserError(f"positions={positions}: give them one by one, for instance positions.gaussian=all")
    for kind, samples in positions.items():
        one_of("positions", kind, tuple(POSITIONS))
        one_of(f"positions.{kind}", samples, ("all", "mean"))
    return {kind: str(samples) for kind, samples in positions.items() if samples != POSITIONS[kind]}


class SweptDatasets(Callback):
    """Remembers the datasets of a multirun, so that one calibration covers all of them."""

    names: list[str] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        params = config.hydra.sweeper.params or {}
        lines = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
        for override in OverridesParser.create().parse_overrides(lines):
            if override.key_or_group == "dataset" and override.is_sweep_override():
                type(self).names = [str(name) for name in override.sweep_string_iterator()]


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration that other overrides give, with the configuration files of this command."""
    try:
        return compose("config", overrides=for_hydra(overrides))
    except HydraException as error:
        raise composition_error(error, overrides) from None


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise `UserError`, with the key and the remedy, for an argument that Hydra cannot parse."""
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if equals and not argument.startswith("-"):
            try:
                OverridesParser.create().parse_override(argument)
            except HydraException:
                raise UserError(
                    f"{key}: this value is not in Hydra's grammar; a text goes in two kinds of quotes: '{key}=\"TEXT\"'"
                ) from None


def command_overrides() -> list[str]:
    """The overrides of this command, as KEY=VALUE."""
    overrides = HydraConfig.get().overrides
    return [*(key for key in overrides.hydra if key.startswith("hydra.searchpath=")), *overrides.task]


def is_multirun() -> bool:
    """Whether this command has several runs (`-m`)."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def choices(group: str) -> dict[str, Path]:
    """The files of a configuration group, by name."""
    return {path.stem: path for folder in _folders() for path in sorted((folder / group).glob("*.yaml"))}


def _folders() -> list[Path]:
    """The folders with this command's configuration. A file in a later folder replaces one in an earlier folder."""
    if not HydraConfig.initialized():
        return [CONF]
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in reversed(sources) if source.schema == "file"]


def dataset_config(d: Mapping[str, Any]) -> DatasetConfig:
    """Check the keys of a dataset. Raises `UserError` for the first wrong value."""
    hints = {
        "name": "a name for the catalogue: dataset.name=my_images",
        "url": "where the images are, a path, glob or URL: 'dataset.url=s3://bucket/{00000..00127}.tar'",
    }
    for key, hint in hints.items():
        if d.get(key) in (None, "", "???"):
            raise UserError(f"dataset.{key} is not set; give {hint}")
    url = d["url"]
    if not NAME.fullmatch(str(d["name"])):
        raise UserError(
            f"dataset.name={d['name']}: use letters, digits, '.', '_' and '-' (at most 128), it names a folder"
        )
    return DatasetConfig(
        str(d["name"]),
        str(url) if not isinstance(url, list) else tuple(map(str, url)),
        text("dataset.description", d.get("description")),
        text("dataset.licence", d.get("licence")),
        options("dataset.storage", d.get("storage")),
        *(text(f"dataset.{key}", d.get(key)) for key in ("image_key", "image_column")),
    )


def plain(cfg: Any) -> dict[str, Any]:
    """A configuration as plain data, with references resolved. Raises `UserError` for one that cannot be resolved."""
    try:
        content: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise UserError(f"{key}{str(error).splitlines()[0]}") from None
    return dict(content)
