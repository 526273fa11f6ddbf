"""Extract: every task of the plan that has no partial yet goes through the network."""

from __future__ import annotations

import logging

from pipeline import pool
from pipeline.config import Settings

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Make the missing partials; `UserError` names the tasks that failed for good."""
    plan, spec, store = settings.plan(), settings.spec(), settings.store
    if (manifest := store.manifest(settings.dataset.name, spec.extractor)) and manifest["fingerprint"] == (
        plan.fingerprint(spec)
    ):
        log.info("extract: %s is complete, nothing to do", settings.dataset.name)
        return
    there = store.partials(spec.id)
    missing = [task for task in plan.tasks if task.id not in there]
    log.info("extract: %d of %d task(s) to do", len(missing), len(plan.tasks))
    if missing:
        report = pool.run(
            settings.job(spec),
            settings.network.state(),
            missing,
            store,
            settings.pool,
            f"extracting {settings.dataset.name}",
            settings.max_bad_fraction,
        )
        report.require_all(len(plan.tasks))
