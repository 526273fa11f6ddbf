"""The settings of a run: plain data, checked by `composition`.

    settings = read(cfg)                      # composition.py: UserError names the key and the allowed values

Stages, the scheduler and workers see these, never Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from extractors import ExtractorConfig

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


@dataclass(frozen=True)
class PoolConfig:
    """How many actors, what each takes, how often a task may be tried, and the Ray cluster's address.

    `None`, and the device "auto", leave the choice to the scheduler, which knows the cluster.
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
