"""Reduce: merge a dataset's partials, in order of the tasks and in a tree of fixed shape, and commit the result.

The tree depends on the number of tasks alone, so the bytes are the same for any number of workers. Of
many partials the lower levels are spread over the pool; each node becomes a partial of its own, so a
dataset that has grown merges only what is new.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distributions import VDNA, Spec
from pipeline.catalogue.writer import Store
from pipeline.data.shards import Work
from pipeline.errors import DamagedError, UserError
from pipeline.extraction.thumbnails import thumbnails
from pipeline.extraction.worker import TaskResult
from pipeline.stages.context import RunContext

log = logging.getLogger(__name__)

FAN_IN = 16
SPREAD = 256
"""Partials from which on actors merge them, where there are several."""


def run(context: RunContext) -> None:
    """Store the dataset's VDNA, unless the current one has this plan's fingerprint already."""
    settings, plan, store = context.settings, context.plan, context.store
    spec = context.spec()
    name, fingerprint = settings.dataset.name, plan.fingerprint(spec)
    facts = {key: plan.dataset[key] for key in ("url", "description", "licence", "extractor_licence")}
    manifest = store.manifest(name, spec.extractor, spec.id)
    if manifest and manifest["fingerprint"] == fingerprint:
        if any(manifest[key] != value for key, value in facts.items()):
            store.put_facts(manifest, facts)
        _show(context)
        return
    parts: Sequence[Work] = plan.tasks
    if len(parts) > SPREAD and context.scheduler.share().actors > 1:
        while len(parts) > FAN_IN:
            parts = nodes = level(parts)
            _merge_on_actors(context, spec, nodes)
    vdna, made_with = merged(store, spec, [part.id for part in parts])
    if not vdna.images:
        raise UserError(f"dataset {name}: none of {len(plan.tasks)} task(s) had a usable image: {_reasons(vdna)}")
    if vdna.ledger.bad_fraction > settings.max_bad_fraction:
        raise UserError(
            f"dataset {name}: {vdna.ledger.bad_fraction:.1%} of the data cannot be used, more than "
            f"max_bad_fraction={settings.max_bad_fraction:g}: {_reasons(vdna)}. Nothing has to be done again: "
            "a larger max_bad_fraction accepts it"
        )
    manifest = store.put_vdna(vdna, name, {**facts, "fingerprint": fingerprint, "provenance": made_with})
    _show(context)
    log.info("reduce: %s has %d images, %d skipped", name, manifest["images"], manifest["skipped"])


def _show(context: RunContext) -> None:
    """Have as many sample pictures as are asked for."""
    settings = context.settings
    if settings.thumbnails is None:
        return
    spec = context.spec()
    manifest = context.store.manifest(settings.dataset.name, spec.extractor, spec.id)
    if manifest and len(manifest.get("thumbnails", [])) != min(settings.thumbnails, manifest["images"]):
        paths = thumbnails(context.store, context.plan, settings.thumbnails)
        context.store.put_facts(manifest, {"thumbnails": paths})


def _merge_on_actors(context: RunContext, spec: Spec, nodes: Sequence[Merge]) -> None:
    try:
        context.scheduler.run(spec, nodes, f"merging {context.settings.dataset.name}", lambda _: (Merger, spec), 1)
    except UserError as error:
        there = context.store.partials(spec.id)
        if any(part not in there for node in nodes if node.id not in there for part in node.parts):
            raise DamagedError(f"partials were damaged and removed: {error}") from error
        raise


@dataclass(frozen=True)
class Merge:
    """A node of the tree: the partials `parts`, in that order, become one."""

    index: int
    parts: tuple[str, ...]
    size: int

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()[:16]


class Merger:
    """Turns a `Merge` into a partial; made an actor by the pool."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def run(self, merge: Merge, store: Store) -> TaskResult:
        vdna, made_with = merged(store, self._spec, merge.parts)
        store.put_partial(vdna, merge.id, made_with)
        return TaskResult.of(vdna.ledger)

    def progress(self) -> tuple[int, int]:
        return 0, 0


def level(parts: Sequence[Work]) -> list[Merge]:
    """The nodes above these."""
    groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
    return [Merge(i, tuple(p.id for p in its), sum(p.size for p in its)) for i, its in enumerate(groups)]


def merged(store: Store, spec: Spec, parts: Sequence[str]) -> tuple[VDNA, dict[str, list[Any]]]:
    """The merge of partials by their ids, and what they were made with.

    Of many it is a tree, and no more of them are in memory than it is deep. All are read before
    `DamagedError` names those that are not as they were written, so they can be made again together.
    """
    total, made_with, damaged = VDNA(spec), dict[str, set[Any]](), list[str]()
    _merge(store, spec, parts, total, made_with, damaged)
    if damaged:
        raise DamagedError("; ".join(damaged))
    return total, {key: sorted(values, key=str) for key, values in made_with.items()}


def _merge(
    store: Store, spec: Spec, parts: Sequence[str], total: VDNA, made_with: dict[str, set[Any]], damaged: list[str]
) -> None:
    width = 1
    while width * FAN_IN < len(parts):
        width *= FAN_IN
    for start in range(0, len(parts), width):
        if width > 1:
            node = VDNA(spec)
            _merge(store, spec, parts[start : start + width], node, made_with, damaged)
            total.merge(node)
            continue
        try:
            found = store.get_partial(spec, parts[start])
        except DamagedError as error:
            damaged.append(str(error))
            continue
        if found is None:
            raise UserError(f"partial {parts[start]} is not there yet: add extract to stages=[...]")
        total.merge(found[0])
        for key, value in found[1].items():
            made_with.setdefault(key, set()).update(value if isinstance(value, list) else [value])


def _reasons(vdna: VDNA) -> str:
    reasons = [f"{count} {reason}" for reason, count in vdna.ledger.skipped.items()]
    reasons += [f"{record.url}: {record.damage}" for record in vdna.ledger.damaged[:5]]
    return "; ".join(reasons) or "the archives hold no images"
