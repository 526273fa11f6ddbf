"""The extract stage: make the partial of every task of the plan that has none."""

from __future__ import annotations

import logging

from pipeline.stages.context import RunContext

log = logging.getLogger(__name__)


def run(context: RunContext) -> None:
    """Make the missing partials. `UserError` names the tasks that failed for good."""
    plan, name = context.plan, context.dataset.name
    spec = context.spec()
    manifest = context.store.manifest(name, spec.extractor, spec.id)
    if manifest is not None and manifest["fingerprint"] == plan.fingerprint(spec):
        log.info("extract: %s is complete, nothing to do", name)
        return
    context.extract(spec, plan.tasks, f"extracting {name}")
