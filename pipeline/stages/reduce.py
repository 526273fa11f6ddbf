"""Reduce: merge a dataset's partials, in order of the tasks and in a tree of fixed shape, and commit the result.

The tree depends on the number of tasks alone, so the bytes are the same for any number of workers, and
no more VDNAs are in memory than the tree is deep.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from distributions import VDNA, Spec
from pipeline.config import Settings
from pipeline.data.sources import Task
from pipeline.errors import UserError
from pipeline.store import Store

log = logging.getLogger(__name__)

FAN_IN = 16


def run(settings: Settings) -> None:
    """Store the dataset's VDNA, unless the current one has this plan's fingerprint already."""
    plan, store = settings.plan(), settings.store
    spec = settings.spec(plan)
    name, fingerprint = settings.dataset.name, plan.fingerprint(spec)
    facts = {key: plan.dataset[key] for key in ("url", "description", "licence", "extractor_licence")}
    manifest = store.manifest(name, spec.extractor, spec.id)
    if manifest and manifest["fingerprint"] == fingerprint:
        if any(manifest[key] != value for key, value in facts.items()):
            store.put_facts(manifest, facts)
        return
    provenance: dict[str, set[Any]] = {}
    vdna = merged(store, spec, plan.tasks, provenance)
    if not vdna.images:
        raise UserError(f"dataset {name}: none of {len(plan.tasks)} task(s) had a usable image: {_reasons(vdna)}")
    if vdna.ledger.bad_fraction > settings.max_bad_fraction:
        raise UserError(
            f"dataset {name}: {vdna.ledger.bad_fraction:.1%} of the data cannot be used, more than "
            f"max_bad_fraction={settings.max_bad_fraction:g}: {_reasons(vdna)}. Nothing has to be done again: "
            "a larger max_bad_fraction accepts it"
        )
    made_with = {key: sorted(values, key=str) for key, values in provenance.items()}
    manifest = store.put_vdna(vdna, name, {**facts, "fingerprint": fingerprint, "provenance": made_with})
    log.info("reduce: %s has %d images, %d skipped", name, manifest["images"], manifest["skipped"])


def merged(store: Store, spec: Spec, tasks: Sequence[Task], provenance: dict[str, set[Any]]) -> VDNA:
    """The merge of the tasks' partials; collects what made them in `provenance`."""
    total = VDNA(spec)
    if len(tasks) > FAN_IN:
        width = FAN_IN
        while width * FAN_IN < len(tasks):
            width *= FAN_IN
        for start in range(0, len(tasks), width):
            total.merge(merged(store, spec, tasks[start : start + width], provenance))
        return total
    for task in tasks:
        partial, made = store.get_partial(spec, task)
        total.merge(partial)
        for key, value in made.items():
            provenance.setdefault(key, set()).add(value)
    return total


def _reasons(vdna: VDNA) -> str:
    reasons = [f"{count} {reason}" for reason, count in vdna.ledger.skipped.items()]
    reasons += [f"{record.url}: {record.damage}" for record in vdna.ledger.damaged[:5]]
    return "; ".join(reasons) or "the archives hold no images"
