"""A pool of Ray actors that work through tasks.

    scheduler = Scheduler(settings.pool, store, max_bad_fraction=0.05)
    scheduler.run(spec, plan.tasks, "extracting", lambda share: (Worker, job, state))     # every task has its partial

Each actor has at most two tasks: one in the network, one being read ahead or stored. It gets them once it has
said that it runs, so one that waits for a node holds nothing up. One that dies is replaced and its tasks go to
others; so does a task that failed, after a pause and on another node where there is one. A task that
keeps failing is recorded without stopping the others. Only results reach the driver.
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
from pipeline.catalogue.writer import Store
from pipeline.cluster.actors import Died, Pool, pool
from pipeline.cluster.ray_start import GPU_THREADS, start_ray
from pipeline.config.settings import PoolConfig
from pipeline.data.shards import Work
from pipeline.errors import SourceChangedError, UserError
from pipeline.extraction.worker import TaskResult, cores
from pipeline.storage.urls import redact
from pipeline.terminal import Tracker

log = logging.getLogger(__name__)

MOST_DEATHS = 10
"""Actors that may die over one task: machines vanish more often than tasks kill."""
LONGEST_PAUSE = 30.0


@dataclass
class Report:
    """What became of the tasks: totals over the finished ones, and the reason for each that failed."""

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

    def judge(self, limit: float, plan_bytes: int) -> None:
        """Raise `UserError` if more bytes of a plan lie behind damage than allowed, were all the rest of it good.

        Spares the rest of a hopeless run; the exact verdict, on images too, is the reduce stage's, from the ledger.
        """
        if self.lost_bytes > limit * plan_bytes:
            raise UserError(
                f"{self.lost_bytes / max(plan_bytes, 1):.1%} of the data cannot be used, more than "
                f"max_bad_fraction={limit:g}: {self.damaged} damaged archive(s), {self.lost_bytes} bytes behind the "
                "damage. What is done is kept; a larger max_bad_fraction goes on from here"
            )


@dataclass(frozen=True)
class Share:
    """What every actor gets, and how many there are."""

    actors: int
    device: str
    threads: int
    gpus: float

    @classmethod
    def of(cls, config: PoolConfig, cluster_gpus: float, cores: int) -> Share:
        """The configuration with its open choices made: one actor per GPU of the cluster, or one on processors.

        Threads never follow from the number of actors, or the last bits of the results would. A cluster
        that grows on demand may have no GPU yet; then the number of actors has to be given.
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


WorkerOf = Callable[[Share], tuple[Any, ...]]
"""From what every actor gets to the class of its worker and that class's arguments."""


class Scheduler:
    """Sees to it that every task has its partial in the store.

    Raises `UserError` once more than `max_bad_fraction` of the data cannot be used, and stops there.
    """

    def __init__(self, config: PoolConfig, store: Store, max_bad_fraction: float) -> None:
        self._config, self._store, self._limit = config, store, max_bad_fraction

    def share(self) -> Share:
        """What the configuration means on the cluster, which is joined or started first."""
        start_ray(self._config)
        gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
        return Share.of(self._config, gpus, cores())

    def run(self, spec: Spec, tasks: Sequence[Work], title: str, worker: WorkerOf, cpus: int | None = None) -> None:
        """See to it that every task has its partial of that spec; those that are there are not made again.

        `cpus`: processors of an actor, which then gets no GPU; None: what the configuration says.
        Raises `UserError` when too much of the data is bad or tasks failed for good; finished partials stay.
        """
        there = self._store.partials(spec.id)
        self._store.forget_failures(spec.id, there)
        missing = [task for task in tasks if task.id not in there]
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
        self, spec: Spec, tasks: Sequence[Work], title: str, plan_bytes: int, worker: WorkerOf, cpus: int | None
    ) -> Report:
        """Work through the tasks that a plan still lacks."""
        share, report = self.share(), Report()
        make, *arguments = worker(share)
        resources = (cpus, 0.0) if cpus else (share.threads, share.gpus)
        with (
            pool((make, *map(ray.put, arguments)), min(share.actors, len(tasks)), *resources) as actors,
            Tracker(title, len(tasks)) as tracker,
        ):
            try:
                for counted, skipped in dispatch(actors, tasks, self._store, self._config.attempts, report):
                    tracker.show(report.done + len(report.failed), counted, skipped, actors.alive)
                    report.judge(self._limit, plan_bytes)
            finally:
                self._store.put_failures(spec.id, tasks, report.failed)
        return report


def dispatch(
    actors: Pool, tasks: Sequence[Work], store: Store, attempts: int, report: Report
) -> Iterator[tuple[int, int]]:
    """Bring every task to its end, into the report; yields images counted and skipped so far, now and then."""
    waiting = deque(tasks)
    later: list[tuple[float, int, Work]] = []  # tasks that failed, by the time from which on they may be tried again
    faults, deaths = Counter[int](), Counter[int]()
    failed_on: dict[int, set[str]] = {}
    while waiting or later or actors.tasks:
        while later and later[0][0] <= time.monotonic():
            waiting.appendleft(heapq.heappop(later)[2])
        while waiting and actors.give(waiting[0], store, failed_on.get(waiting[0].index, ())):
            waiting.popleft()
        buried = None
        for member, task, outcome in actors.events():
            if isinstance(outcome, TaskResult):
                report.add(outcome)
                continue
            if isinstance(outcome, Died):
                if member is buried:  # it waited behind the task that was under way, and is not to blame
                    waiting.appendleft(task)
                    continue
                buried = member
                deaths[task.index] += 1
                fault = f"its actor died ({str(outcome).splitlines()[0]})"
                last = deaths[task.index] >= MOST_DEATHS
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
            pause = random.uniform(0, min(0.5 * 2**tries, LONGEST_PAUSE)) if faults[task.index] else 0
            heapq.heappush(later, (time.monotonic() + pause, task.index, task))
        counted, skipped = actors.progress()
        yield max(counted, report.counted), max(skipped, report.skipped.total())
