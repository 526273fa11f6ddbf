"""Plan: find the shards, group them into tasks, and write down which network will see them.

The tasks depend on the data alone, not on who will do them, so a plan made again is the same plan.
"""

from __future__ import annotations

import logging

from pipeline.config.settings import Settings
from pipeline.data.discovery import public
from pipeline.data.plan import Plan, network_spec
from pipeline.data.shards import group

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Write the plan of the dataset asked for."""
    dataset = settings.dataset
    shards = settings.shards(dataset)
    tasks = group(shards, settings.shards_per_task, dataset.storage)
    known = {"name": dataset.name, "url": public(dataset.url), "extractor_licence": settings.network.licence}
    known |= {"description": dataset.description, "licence": dataset.licence}
    plan = Plan(known, network_spec(settings.network), tuple(tasks))
    settings.store.put_plan(plan)
    settings.use(plan)
    log.info("plan: %s is %d shard(s) in %d task(s)", dataset.name, len(shards), len(tasks))
