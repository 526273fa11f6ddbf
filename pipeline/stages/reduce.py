"""The reduce stage: merge the partials of a dataset into its VDNA, in the order of the tasks.

Partials are merged in a tree whose shape depends only on the number of tasks, so the bytes of the VDNA are the same for
any number of workers. If there are many partials, actors merge the lower levels of the tree. Each merged node is stored
as a partial, so a dataset that has grown merges only its new part.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distributions import VDNA, Spec
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.data.shards import Work
from pipeline.errors import DamagedError, UserError
from pipeline.extraction.thumbnails import thumbnails
from pipeline.extraction.worker import TaskResult
from pipeline.stages.context import RunContext

log = logging.getLogger(__name__)

FAN_IN = 16
"""Children of a node of the tree."""
MERGE_ON_ACTORS_FROM = 256
"""Number of partials above which actors merge them, if there are several actors."""


def run(context: RunContext) -> None:
    """Store the VDNA of the dataset, unless the current one has the fingerprint of this plan.

    Raises `UserError` if a partial is missing, no image could be used, or too much of the data is bad.
    """
    settings, plan, store = context.settings, context.plan, context.store
    spec = context.spec()
    name, fingerprint = context.dataset.name, plan.fingerprint(spec)
    facts = {key: plan.dataset[key] for key in ("url", "description", "licence", "extractor_licence")}
    manifest = store.manifest(name, spec.extractor, spec.id)
    if manifest and manifest["fingerprint"] == fingerprint:
        if any(manifest[key] != value for key, value in facts.items()):
            store.put_facts(manifest, facts)
        _write_thumbnails(context)
        return
    parts: Sequence[Work] = plan.tasks
    if len(parts) > MERGE_ON_ACTORS_FROM and context.scheduler.resources().actors > 1:
        while len(parts) > FAN_IN:
            parts = nodes = next_level(parts)
            _merge_on_actors(context, spec, nodes)
    vdna, made_with = merge_partials(store, spec, [part.id for part in parts])
    if not vdna.images:
        raise UserError(f"dataset {name}: none of {len(plan.tasks)} task(s) had a usable image: {_reasons(vdna)}")
    if vdna.ledger.bad_fraction > settings.max_bad_fraction:
        raise UserError(
            f"dataset {name}: {vdna.ledger.bad_fraction:.1%} of the data cannot be used, more than "
            f"max_bad_fraction={settings.max_bad_fraction:g}: {_reasons(vdna)}. Finished tasks are kept: "
            "mend the images, or accept the rest with a larger max_bad_fraction, and run the command again"
        )
    manifest = store.put_vdna(vdna, name, {**facts, "fingerprint": fingerprint, "provenance": made_with})
    _write_thumbnails(context)
    log.info("reduce: %s has %d images, %d skipped", name, manifest["images"], manifest["skipped"])


def _write_thumbnails(context: RunContext) -> None:
    """Store the configured number of sample pictures, unless the manifest has as many."""
    settings = context.settings
    if settings.thumbnails is None:
        return
    spec = context.spec()
    manifest = context.store.manifest(context.dataset.name, spec.extractor, spec.id)
    if manifest and len(manifest.get("thumbnails", [])) != min(settings.thumbnails, manifest["images"]):
        paths = thumbnails(context.store, context.plan, settings.thumbnails)
        context.store.put_facts(manifest, {"thumbnails": paths})


def _merge_on_actors(context: RunContext, spec: Spec, nodes: Sequence[MergeTask]) -> None:
    try:
        context.scheduler.run(spec, nodes, f"merging {context.dataset.name}", lambda _: (MergeWorker, spec), 1)
    except UserError as error:
        stored = context.store.partials(spec.id)
        if any(part not in stored for node in nodes if node.id not in stored for part in node.parts):
            raise DamagedError(f"partials were damaged and removed: {error}") from error
        raise


@dataclass(frozen=True)
class MergeTask:
    """A node of the tree: merges the partials `parts`, in that order. `size` is the sum of the tasks' sizes in
    bytes."""

    index: int
    parts: tuple[str, ...]
    size: int

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()[:16]


class MergeWorker:
    """The worker of an actor that merges partials."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def run(self, merge: MergeTask, store: CatalogueWriter) -> TaskResult:
        """Merge the partials of a node and store the result as a partial."""
        vdna, made_with = merge_partials(store, self._spec, merge.parts)
        store.put_partial(vdna, merge.id, made_with)
        return TaskResult.of(vdna.ledger)

    def progress(self) -> tuple[int, int]:
        return 0, 0


def next_level(parts: Sequence[Work]) -> list[MergeTask]:
    """The nodes of the next level of the tree, above these tasks or nodes."""
    groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
    return [
        MergeTask(i, tuple(p.id for p in children), sum(p.size for p in children)) for i, children in enumerate(groups)
    ]


def merge_partials(store: CatalogueWriter, spec: Spec, parts: Sequence[str]) -> tuple[VDNA, dict[str, list[Any]]]:
    """Merge partials in the order of their ids. Returns the VDNA and the provenance of the partials.

    Partials are merged in a tree, of which only one path is in memory. Raises `UserError` if a partial is missing.
    Raises `DamagedError` after all partials were read; it names every damaged one, so they can be made again together.
    """
    total, made_with, damaged = VDNA(spec), dict[str, set[Any]](), list[str]()
    _merge(store, spec, parts, total, made_with, damaged)
    if damaged:
        raise DamagedError("; ".join(damaged))
    return total, {key: sorted(values, key=str) for key, values in made_with.items()}


def _merge(
    store: CatalogueWriter,
    spec: Spec,
    parts: Sequence[str],
    total: VDNA,
    made_with: dict[str, set[Any]],
    damaged: list[str],
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
            partial = store.get_partial(spec, parts[start])
        except DamagedError as error:
            damaged.append(str(error))
            continue
        if partial is None:
            raise UserError(f"partial {parts[start]} is not there yet: add extract to stages=[...]")
        total.merge(partial[0])
        for key, value in partial[1].items():
            made_with.setdefault(key, set()).update(value if isinstance(value, list) else [value])


def _reasons(vdna: VDNA) -> str:
    reasons = [f"{count} {reason}" for reason, count in vdna.ledger.skipped.items()]
    reasons += [f"{record.url}: {record.damage}" for record in vdna.ledger.damaged[:5]]
    return "; ".join(reasons) or "the archives hold no images"
