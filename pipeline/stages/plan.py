"""Plan: find the shards, group them into tasks, and write down which network will see them.

The tasks depend on the data alone, not on who will do them, so a plan made again is the same plan.
"""

from __future__ import annotations

import logging

from pipeline.data.discovery import public
from pipeline.data.plan import Plan, network_spec
from pipeline.data.shards import group
from pipeline.stages.context import RunContext

log = logging.getLogger(__name__)


def run(context: RunContext) -> None:
    """Write the plan of the dataset asked for."""
    dataset, network = context.settings.dataset, context.network
    shards = context.shards(dataset)
    tasks = group(shards, context.settings.shards_per_task, dataset.storage)
    known = {"name": dataset.name, "url": public(dataset.url), "extractor_licence": network.licence}
    known |= {"description": dataset.description, "licence": dataset.licence}
    plan = Plan(known, network_spec(network), tuple(tasks))
    context.store.put_plan(plan)
    context.plan = plan
    log.info("plan: %s is %d shard(s) in %d task(s)", dataset.name, len(shards), len(tasks))
