"""The plan stage: find the shards, group them into tasks, and record the network.

The tasks depend only on the data and not on the cluster, so planning again gives the same plan.
"""

from __future__ import annotations

import logging

from pipeline.data.discovery import public
from pipeline.data.plan import Plan, network_spec
from pipeline.data.shards import group
from pipeline.stages.context import RunContext

log = logging.getLogger(__name__)


def run(context: RunContext) -> None:
    """Store the plan of the run's dataset."""
    dataset, network = context.dataset, context.network
    shards = context.shards(dataset)
    tasks = group(shards, context.settings.shards_per_task, dataset.storage)
    facts = {"name": dataset.name, "url": public(dataset.url), "extractor_licence": network.licence}
    facts |= {"description": dataset.description, "licence": dataset.licence}
    plan = Plan(facts, network_spec(network), tuple(tasks))
    context.store.put_plan(plan)
    context.plan = plan
    log.info("plan: %s is %d shard(s) in %d task(s)", dataset.name, len(shards), len(tasks))
