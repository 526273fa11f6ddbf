"""Define the settings of a run as plain data. `pipeline.config.composition.read` checks and makes them.

Stages, the scheduler and workers see these settings, and never Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from extractors import ExtractorConfig

STAGES = ("plan", "calibrate", "extract", "reduce", "compare", "publish")


@dataclass(frozen=True)
class DatasetConfig:
    """A dataset, as in `conf/dataset/NAME.yaml`: its place, its description, and how to read it."""

    name: str
    url: str | tuple[str, ...]
    description: str = ""
    licence: str = ""
    storage: Mapping[str, Any] = field(default_factory=dict)
    image_key: str = ""
    image_column: str = ""


@dataclass(frozen=True)
class PoolConfig:
    """The number of actors, the resources of each, the tries of a task, and the address of the Ray cluster.

    The scheduler, which knows the cluster, chooses where a value is `None` or the device is "auto".
    """

    actors: int | None = None
    device: str = "auto"
    threads: int | None = None
    gpus_per_actor: float | None = None
    attempts: int = 4
    address: str | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of a run, which measures a dataset with an extractor for a catalogue."""

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
