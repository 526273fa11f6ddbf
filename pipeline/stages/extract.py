"""Extract: every task of the plan that has no partial yet goes through the network."""

from __future__ import annotations

import logging

from pipeline.cluster import scheduler
from pipeline.config.settings import Settings

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Make the missing partials; `UserError` names the tasks that failed for good."""
    plan, name = settings.plan, settings.dataset.name
    spec = settings.spec()
    manifest = settings.store.manifest(name, spec.extractor, spec.id)
    if manifest is not None and manifest["fingerprint"] == plan.fingerprint(spec):
        log.info("extract: %s is complete, nothing to do", name)
        return
    scheduler.run(settings, spec, plan.tasks, f"extracting {name}")
