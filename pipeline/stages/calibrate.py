"""The calibrate stage: set the histogram axes of a network, once per catalogue.

The activation range of every neuron is observed over the datasets of the command, or over those in
`calibration.datasets`. All later datasets use the same axes; otherwise they could not be compared.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from distributions import ActivationRanges, HistogramAxes, Spec
from distributions.spec import difference_of_layers, has_histogram
from pipeline.config.settings import DatasetConfig
from pipeline.data.shards import Task, group
from pipeline.errors import UserError
from pipeline.stages.context import RunContext
from pipeline.storage.urls import redact

log = logging.getLogger(__name__)


def run(context: RunContext, strict: bool = True) -> None:
    """Store the histogram axes of this run's network, unless the catalogue has them.

    If `strict`, all datasets have to be readable; if not, one of them, and the others are left out with a warning.
    Raises `UserError` if that is not so, or if `ranges=` gives the axes of other layers.
    """
    settings = context.settings
    if not has_histogram(settings.distributions):
        return
    network, store = context.plan.network_spec, context.store
    ranges = context.ranges_of(network.network_id)
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
    if difference := difference_of_layers(ranges.layers, network.layers):
        raise UserError(
            f"ranges={settings.ranges}: these are axes of other layers than those of {network.extractor}: "
            f"{difference}; set layers= to the first, or ranges=auto"
        )
    store.put_ranges(network.network_id, ranges)


def _readable(context: RunContext, spec: Spec) -> tuple[DatasetConfig, ...]:
    """The datasets that can be observed, each tried by itself. Finished partials are not made again."""
    readable = []
    for dataset in context.settings.calibration:
        try:
            _partials(context, spec, (dataset,))
            readable.append(dataset)
        except UserError as error:
            log.warning("%s", redact(f"calibrate: {dataset.name} is left out of the axes for good, it failed: {error}"))
    return tuple(readable)


def _partials(context: RunContext, spec: Spec, datasets: Sequence[DatasetConfig]) -> list[Task]:
    """Observe the activation ranges over some datasets, and return the tasks whose partials have them."""
    tasks: list[Task] = []
    for dataset in datasets:
        shards = context.shards(dataset)
        all_tasks = group(shards, context.settings.shards_per_task, dataset.storage)
        tasks += all_tasks[:: -(-len(all_tasks) // (context.settings.calibration_max_tasks or len(all_tasks)))]
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
