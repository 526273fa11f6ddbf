"""From Hydra's configuration to plain, checked settings.

    settings = Settings.from_config(cfg)      # UserError names the key and the allowed values

Stages and workers see `Settings` and what it holds, never Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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

from distributions import Ranges, Spec
from distributions.spec import POSITIONS, bins_of, difference_between, has_histogram
from extractors import Extractor, ExtractorConfig, build, check_device
from pipeline.catalogue.writer import Store
from pipeline.config.arguments import placed, refused
from pipeline.config.checks import number, one_of, options, several, text, whole
from pipeline.config.networks import CONF, extractor_config
from pipeline.data.discovery import find
from pipeline.data.plan import OBSERVE, Plan, network_spec
from pipeline.data.shards import Shard
from pipeline.errors import UserError
from pipeline.extraction.worker import Job
from pipeline.formats.manifests import NAME
from pipeline.formats.vdna_files import read_ranges
from pipeline.storage.disk import named

STAGES = ("plan", "calibrate", "extract", "reduce", "compare", "publish")


@dataclass(frozen=True)
class DatasetConfig:
    """What `conf/dataset/NAME.yaml` says: where a dataset is and what is known of it."""

    name: str
    url: str | tuple[str, ...]
    description: str = ""
    licence: str = ""
    storage: Mapping[str, Any] = field(default_factory=dict)
    image_key: str = ""
    image_column: str = ""

    @classmethod
    def named(cls, name: str) -> DatasetConfig:
        """A dataset of `conf/dataset`, or of `--config-dir`, by its file name."""
        known = choices("dataset")
        if name not in known:
            raise UserError(f"calibration.datasets: no dataset {name}; there are {', '.join(sorted(known))}")
        return dataset_config(plain(OmegaConf.load(known[name])))


@dataclass(frozen=True)
class PoolConfig:
    """How many actors, what each takes, how often a task may be tried, and the Ray cluster's address.

    `None`, and the device "auto", leave the choice to the pool, which knows the cluster.
    """

    actors: int | None = None
    device: str = "auto"
    threads: int | None = None
    gpus_per_actor: float | None = None
    attempts: int = 4
    address: str | None = None


@dataclass(frozen=True)
class Settings:
    """One run: a dataset through an extractor into a catalogue."""

    dataset: DatasetConfig
    extractor: ExtractorConfig
    catalogue: str
    storage: Mapping[str, Any]
    distributions: tuple[str, ...]
    positions: Mapping[str, str]
    stages: tuple[str, ...]
    pool: PoolConfig
    batch_size: int
    decode_threads: int
    max_bad_fraction: float
    patience: float
    shards_per_task: int
    images_per_shard: int
    thumbnails: int | None
    ranges: str
    calibration: tuple[DatasetConfig, ...]
    calibration_max_tasks: int | None

    @cached_property
    def store(self) -> Store:
        return Store(self.catalogue, self.storage, self.patience)

    @cached_property
    def network(self) -> Extractor:
        """The network on this machine's processor, made when first asked for."""
        return build(self.extractor)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the dataset: the one that this run made, or else the stored one."""
        return self.store.get_plan(self.dataset.name, self.extractor.name, self.dataset.storage)

    def shards(self, dataset: DatasetConfig) -> list[Shard]:
        """What a dataset consists of now."""
        return find(
            dataset.url,
            self.images_per_shard,
            dict(dataset.storage),
            self.patience,
            dataset.image_key,
            dataset.image_column,
        )

    def share(self, network: Extractor | None) -> None:
        """Go on with a network that another run of the same extractor has made; None: let go of it."""
        self.__dict__.pop("network", None)
        if network is not None:
            self.__dict__["network"] = network

    def use(self, plan: Plan) -> None:
        """Go on with this plan, whatever another run of the same dataset may store meanwhile."""
        self.__dict__["plan"] = plan

    def ranges_of(self, network: str) -> Ranges | None:
        """The histogram axes that `ranges=` means for a network: a file, an id, "published", or those in use
        (None: none yet)."""
        if self.ranges == "auto":
            return self.store.get_ranges(network)
        if named(self.ranges).is_file() or self.ranges.startswith(("published", "hf:", "http://", "https://")):
            return read_ranges(self.ranges, self.extractor.ranges)
        found = self.store.get_ranges(network, self.ranges) if NAME.fullmatch(self.ranges) else None
        if found is None:
            raise UserError(f"ranges={self.ranges}: neither a file nor an id this network has in the catalogue")
        return found

    def spec(self) -> Spec:
        """The spec of the VDNA this run makes; `UserError` if histograms lack axes."""
        needed = has_histogram(self.distributions)
        ranges = self.ranges_of(self.plan.network.network) if needed else None
        if needed and ranges is None:
            raise UserError("histograms need activation ranges: add calibrate to stages=[...] or give ranges=FILE")
        return self.plan.spec(self.distributions, ranges, self.positions)

    def job(self, spec: Spec, device: str, threads: int) -> Job:
        """What workers have to know to make VDNAs of that spec; `UserError` if the plan was for another network,
        `ExtractorError` if the device cannot do what is asked for."""
        check_device(self.extractor, device)
        if network_spec(self.network).network != spec.network:
            planned = replace(spec, distributions=OBSERVE, ranges=None, positions={})
            difference = difference_between(planned, network_spec(self.network))
            raise UserError(f"the plan was made for another network ({difference}): add plan to stages=[...]")
        return Job(self.extractor, spec, self.batch_size, threads, self.decode_threads, device, self.patience)

    @classmethod
    def from_config(cls, cfg: DictConfig) -> Settings:
        """Check every key; raise `UserError` at the first that cannot be."""
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
        calibration = [DatasetConfig.named(name) for name in (swept if names is None else names)]
        return cls(
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
            calibration_max_tasks=(
                None if c["calibration"]["max_tasks"] is None else whole(c["calibration"], "max_tasks")
            ),
        )


def _positions(given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        raise UserError(f"positions={given}: give them one by one, for instance positions.gaussian=all")
    for kind, samples in given.items():
        one_of("positions", kind, tuple(POSITIONS))
        one_of(f"positions.{kind}", samples, ("all", "mean"))
    return {kind: str(samples) for kind, samples in given.items() if samples != POSITIONS[kind]}


class SweptDatasets(Callback):
    """Remembers which datasets a multirun names, so that one calibration covers them all."""

    names: list[str] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        params = config.hydra.sweeper.params or {}
        lines = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
        for override in OverridesParser.create().parse_overrides(lines):
            if override.key_or_group == "dataset" and override.is_sweep_override():
                type(self).names = [str(name) for name in override.sweep_string_iterator()]


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration of another command line, from where this command's is."""
    try:
        return compose("config", overrides=placed(overrides))
    except HydraException as error:
        raise refused(error, overrides) from None


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise `UserError` for an argument that Hydra cannot read, with its key and the remedy."""
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if equals and not argument.startswith("-"):
            try:
                OverridesParser.create().parse_override(argument)
            except HydraException:
                raise UserError(
                    f"{key}: this value is not in Hydra's grammar; a text goes in two kinds of quotes: '{key}=\"TEXT\"'"
                ) from None


def given() -> list[str]:
    """What this command was given, as KEY=VALUE."""
    overrides = HydraConfig.get().overrides
    return [*(key for key in overrides.hydra if key.startswith("hydra.searchpath=")), *overrides.task]


def is_multirun() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def choices(group: str) -> dict[str, Path]:
    """The files of a group of the configuration, by name."""
    return {path.stem: path for folder in _folders() for path in sorted((folder / group).glob("*.yaml"))}


def _folders() -> list[Path]:
    """Where this command's configuration is looked for; a later one counts before an earlier one."""
    if not HydraConfig.initialized():
        return [CONF]
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in reversed(sources) if source.schema == "file"]


def dataset_config(d: Mapping[str, Any]) -> DatasetConfig:
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
    try:
        content: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise UserError(f"{key}{str(error).splitlines()[0]}") from None
    return dict(content)
