"""Calibrate: give a network's histograms their axes, once per catalogue.

What every neuron spans is observed over the datasets of the command (or those that
`calibration.datasets` names); all later datasets use the same axes, or they could not be compared.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from distributions import ActivationRanges, Ranges, Spec
from distributions.spec import has_histogram
from pipeline import pool
from pipeline.config import Settings
from pipeline.data.shards import Task, group
from pipeline.data.sources import find
from pipeline.errors import UserError

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Make sure that the ranges this run's histograms need are in the catalogue."""
    if not has_histogram(settings.distributions):
        return
    network, store = settings.plan.network, settings.store
    ranges = settings.ranges_of(network.network)
    if ranges is None:
        ranges = _observe(settings, network)
        log.info("calibrate: ranges %s from %d dataset(s)", ranges.id, len(settings.calibration))
    if dict(ranges.layers) != dict(network.layers):
        raise UserError(f"ranges={settings.ranges}: made for other layers than {network.extractor} has")
    store.put_ranges(network.network, ranges)


def _observe(settings: Settings, spec: Spec) -> Ranges:
    store = settings.store
    tasks: list[Task] = []
    for dataset in settings.calibration:
        shards = find(dataset.url, settings.images_per_shard, dict(dataset.storage), settings.patience)
        its = group(shards, settings.shards_per_task, dataset.storage)
        tasks += its[:: -(-len(its) // (settings.calibration_max_tasks or len(its)))]
    tasks = [replace(task, index=index) for index, task in enumerate(tasks)]
    names = ", ".join(dataset.name for dataset in settings.calibration)
    pool.run(settings, spec, tasks, f"calibrating on {names}")
    total, skipped = ActivationRanges(spec.layers), Counter[str]()
    for task in tasks:
        partial = store.get_partial(spec, task.id)
        if partial is None:
            raise UserError(f"calibrating on {names}: a partial has vanished; the same command makes it again")
        total.merge(partial[0].find(ActivationRanges))
        skipped.update(partial[0].ledger.skipped)
    try:
        return Ranges.calibrated(total)
    except ValueError as error:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "there are no images"
        raise UserError(f"cannot calibrate on {names}: {error} ({reasons})") from None
