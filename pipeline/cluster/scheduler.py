"""The scheduler makes sure that every task of a spec has its partial in the store.

    scheduler = Scheduler(settings.pool, store, max_bad_fraction=0.05)
    scheduler.run(spec, plan.tasks, "extracting", lambda resources: (Worker, job, state))

Each actor has at most two tasks: one in the network, one being read ahead or stored. When an actor dies, a new actor
replaces it and its tasks go to other actors. A task that failed is tried again after a pause, on another node where
there is one. A task that keeps failing is recorded and does not stop the others. Only counts reach the driver; partials
go from the actors to the store.
"""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from distributions import Spec
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.cluster.actors import ActorDiedError, Pool, Spares, pool
from pipeline.cluster.ray_start import GPU_THREADS, start_ray
from pipeline.config.settings import PoolConfig
from pipeline.data.shards import Work
from pipeline.errors import SourceChangedError, UserError
from pipeline.extraction.worker import TaskResult, cores
from pipeline.storage.urls import redact
from pipeline.terminal import Tracker

log = logging.getLogger(__name__)

MAX_DEATHS_PER_TASK = 10
"""Deaths of actors after which their task is given up. Machines vanish more often than a task kills its actor."""
MAX_PAUSE_SECONDS = 30.0


@dataclass
class Report:
    """The outcome of the tasks: totals over the finished tasks, and the reason of each failed task by its index."""

    counted: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    lost_bytes: int = 0
    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)

    def add(self, result: TaskResult) -> None:
        self.counted += result.counted
        self.skipped.update(result.skipped)
        self.damaged += result.damaged
        self.lost_bytes += result.lost_bytes
        self.done += 1

    def judge(self, title: str, limit: float, plan_bytes: int) -> None:
        """Raise `UserError` if more than the fraction `limit` of a plan's bytes is lost behind damaged places.

        The check ends a hopeless run early. The reduce stage decides exactly, with the skipped images, from the ledger.
        """
        if self.lost_bytes > limit * plan_bytes:
            raise UserError(
                f"{title}: {self.lost_bytes / max(plan_bytes, 1):.1%} of the data cannot be used, more than "
                f"max_bad_fraction={limit:g}: {self.damaged} damaged archive(s), {self.lost_bytes} bytes behind the "
                "damage. Finished tasks are kept: mend the archives, or allow more with a larger max_bad_fraction, "
                "and run the command again"
            )


@dataclass(frozen=True)
class Resources:
    """How many actors there are, and the device, processor threads and GPUs of each."""

    actors: int
    device: str
    threads: int
    gpus: float

    @classmethod
    def of(cls, config: PoolConfig, cluster_gpus: float, cores: int) -> Resources:
        """The configuration with its open choices made: one actor per GPU of the cluster, or one actor without a GPU.

        The number of threads does not depend on the number of actors; otherwise the last bits of the results would. A
        cluster that grows on demand may have no GPU yet: then `UserError` is raised unless `config.actors` is given.
        """
        device = config.device if config.device != "auto" else ("cuda" if cluster_gpus else "cpu")
        if device == "cuda" and not cluster_gpus and not (config.address and config.actors):
            raise UserError(
                "device=cuda: there is no GPU here; use device=cpu or device=auto, or, on a cluster that brings "
                "them on demand, say how many: actors=N"
            )
        gpus = config.gpus_per_actor if config.gpus_per_actor is not None else float(device == "cuda")
        actors = config.actors or (max(int(cluster_gpus / gpus), 1) if gpus else 1)
        return cls(actors, device, config.threads or (GPU_THREADS if device == "cuda" else cores), gpus)


WorkerFactory = Callable[[Resources], tuple[Any, ...]]
"""A function from the actors' resources to the class of their worker and that class's arguments."""


class Scheduler:
    """Runs tasks on actors, configured by `config`, until each has its partial in `store`.

    A run stops with `UserError` once more than `max_bad_fraction` of the data cannot be used. Actors are left in
    `spares`, and ended after each run if there are none.
    """

    def __init__(
        self, config: PoolConfig, store: CatalogueWriter, max_bad_fraction: float, spares: Spares | None = None
    ) -> None:
        self._config, self._store, self._limit, self._spares = config, store, max_bad_fraction, spares

    def resources(self) -> Resources:
        """The actors' resources on the cluster. Joins or starts the cluster first."""
        start_ray(self._config)
        gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
        return Resources.of(self._config, gpus, cores())

    def run(
        self, spec: Spec, tasks: Sequence[Work], title: str, worker: WorkerFactory, cpus: int | None = None
    ) -> None:
        """Make the partials of a spec that tasks still lack, and show the progress under `title`.

        Args:
            worker: gives the class of the worker and its arguments.
            cpus: processors of each actor, which then has no GPU; None: as configured.

        Raises `UserError` if too much of the data is bad or tasks failed for good. Finished partials stay.
        """
        finished = self._store.partials(spec.id)
        self._store.forget_failures(spec.id, finished)
        missing = [task for task in tasks if task.id not in finished]
        if not missing:
            return
        log.info("%s: %d of %d task(s) to do", title, len(missing), len(tasks))
        report = self.work(spec, missing, title, sum(task.size for task in tasks), worker, cpus)
        self._store.forget_failures(spec.id, {task.id for task in missing if task.index not in report.failed})
        if report.failed:
            shown = "; ".join(f"task {index}: {fault}" for index, fault in sorted(report.failed.items())[:5])
            raise UserError(
                f"{len(report.failed)} of {len(tasks)} task(s) failed: {shown}. The others are kept and the failed "
                f"ones are on record in failures/{spec.id}/; the same command tries these again"
            )

    def work(
        self, spec: Spec, tasks: Sequence[Work], title: str, plan_bytes: int, worker: WorkerFactory, cpus: int | None
    ) -> Report:
        """Run these tasks on actors; `plan_bytes` is the size of the whole plan, finished tasks included."""
        resources, report = self.resources(), Report()
        per_actor = (cpus, 0.0) if cpus else (resources.threads, resources.gpus)
        with (
            pool(worker(resources), min(resources.actors, len(tasks)), *per_actor, self._spares) as actors,
            Tracker(title, len(tasks)) as tracker,
        ):
            try:
                for counted, skipped in dispatch(actors, tasks, self._store, self._config.attempts, report):
                    tracker.show(report.done + len(report.failed), counted, skipped, actors.alive)
                    report.judge(title, self._limit, plan_bytes)
            finally:
                self._store.put_failures(spec.id, tasks, report.failed)
        return report


def dispatch(
    actors: Pool, tasks: Sequence[Work], store: CatalogueWriter, attempts: int, report: Report
) -> Iterator[tuple[int, int]]:
    """Run every task until it succeeds or fails for good, and enter the outcome into the report.

    Yields the number of images counted and skipped so far, at least once in `POLL_SECONDS`.
    """
    waiting = deque(tasks)
    later: list[tuple[float, int, Work]] = []  # failed tasks, by the time of their next try
    faults, deaths = Counter[int](), Counter[int]()
    failed_on: dict[int, set[str]] = {}
    while waiting or later or actors.tasks:
        while later and later[0][0] <= time.monotonic():
            waiting.appendleft(heapq.heappop(later)[2])
        while waiting and actors.give(waiting[0], store, failed_on.get(waiting[0].index, ())):
            waiting.popleft()
        dead = None
        for member, task, outcome in actors.events():
            if isinstance(outcome, TaskResult):
                report.add(outcome)
                continue
            if isinstance(outcome, ActorDiedError):
                if member is dead:  # this task waited behind the task that was under way: it is not the cause
                    waiting.appendleft(task)
                    continue
                dead = member
                deaths[task.index] += 1
                fault = f"its actor died ({str(outcome).splitlines()[0]})"
                last = deaths[task.index] >= MAX_DEATHS_PER_TASK
            else:
                cause = getattr(outcome, "cause", outcome)
                faults[task.index] += 1
                fault = redact(f"{type(cause).__name__}: {cause}")
                last = faults[task.index] >= attempts or isinstance(cause, SourceChangedError)
            failed_on.setdefault(task.index, set()).add(member.node)
            if last:
                report.failed[task.index] = fault
                continue
            log.warning("task %d failed and is tried again: %s", task.index, fault)
            tries = faults[task.index] + deaths[task.index]
            pause = random.uniform(0, min(0.5 * 2**tries, MAX_PAUSE_SECONDS)) if faults[task.index] else 0
            heapq.heappush(later, (time.monotonic() + pause, task.index, task))
        counted, skipped = actors.progress()
        yield max(counted, report.counted), max(skipped, report.skipped.total())
