"""Calibrate: give a network's histograms their axes, once per catalogue.

What every neuron spans is observed over the datasets of the command (or those that
`calibration.datasets` names); all later datasets use the same axes, or they could not be compared.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from distributions import ActivationRanges, HistogramAxes, Spec
from distributions.spec import has_histogram
from pipeline.config.settings import DatasetConfig
from pipeline.data.shards import Task, group
from pipeline.errors import UserError
from pipeline.stages.context import RunContext
from pipeline.storage.urls import redact

log = logging.getLogger(__name__)


def run(context: RunContext, strict: bool = True) -> None:
    """Make sure that the ranges this run's histograms need are in the catalogue.

    Of several datasets each has to be readable; if not `strict`, one at least: the others are named and left out.
    """
    settings = context.settings
    if not has_histogram(settings.distributions):
        return
    network, store = context.plan.network, context.store
    ranges = context.ranges_of(network.network)
    if ranges is None:
        datasets = settings.calibration
        try:
            ranges = _observe(context, network, datasets)
        except UserError:
            datasets = () if strict or len(datasets) == 1 else _readable(context, network)
            if not datasets:
                raise
            ranges = _observe(context, network, datasets)
        log.info("calibrate: ranges %s from %d dataset(s)", ranges.id, len(datasets))
    if dict(ranges.layers) != dict(network.layers):
        raise UserError(f"ranges={settings.ranges}: made for other layers than {network.extractor} has")
    store.put_ranges(network.network, ranges)


def _readable(context: RunContext, spec: Spec) -> tuple[DatasetConfig, ...]:
    """The datasets that can be observed when each is by itself; what is done of them already is not done again."""
    found = []
    for dataset in context.settings.calibration:
        try:
            _partials(context, spec, (dataset,))
            found.append(dataset)
        except UserError as error:
            log.warning("%s", redact(f"calibrate: {dataset.name} is left out of the axes for good, it failed: {error}"))
    return tuple(found)


def _partials(context: RunContext, spec: Spec, datasets: Sequence[DatasetConfig]) -> list[Task]:
    """Have in the store what every neuron spans over these datasets; the tasks whose partials say it."""
    tasks: list[Task] = []
    for dataset in datasets:
        shards = context.shards(dataset)
        its = group(shards, context.settings.shards_per_task, dataset.storage)
        tasks += its[:: -(-len(its) // (context.settings.calibration_max_tasks or len(its)))]
    tasks = [replace(task, index=index) for index, task in enumerate(tasks)]
    context.extract(spec, tasks, f"calibrating on {_names(datasets)}")
    return tasks


def _observe(context: RunContext, spec: Spec, datasets: Sequence[DatasetConfig]) -> HistogramAxes:
    tasks, names = _partials(context, spec, datasets), _names(datasets)
    total, skipped = ActivationRanges(spec.layers), Counter[str]()
    for task in tasks:
        partial = context.store.get_partial(spec, task.id)
        if partial is None:
            raise UserError(f"calibrating on {names}: a partial has vanished; the same command makes it again")
        total.merge(partial[0].find(ActivationRanges))
        skipped.update(partial[0].ledger.skipped)
    try:
        return HistogramAxes.calibrated(total)
    except ValueError as error:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "there are no images"
        raise UserError(f"cannot calibrate on {names}: {error} ({reasons})") from None


def _names(datasets: Sequence[DatasetConfig]) -> str:
    return ", ".join(dataset.name for dataset in datasets)
