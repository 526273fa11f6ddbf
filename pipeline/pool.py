"""A pool of Ray actors that work through tasks.

    report = run(job, state, tasks, store, pool, title="extracting demo_digits", bad=0.05)

Each actor holds the network and has at most two tasks: one under way, one waiting. An actor that dies
is replaced and its tasks are tried again; so is a task that failed for a passing reason. A task that
keeps failing is reported at the end without holding up the others. Only receipts reach the driver.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions
import torch

from pipeline.config import PoolConfig
from pipeline.data.sources import Task
from pipeline.errors import UserError
from pipeline.progress import Tracker
from pipeline.store import Store
from pipeline.worker import Job, Receipt, Worker

log = logging.getLogger(__name__)

IN_FLIGHT = 2
POLL_SECONDS = 1.0


@dataclass
class Report:
    """What became of the tasks: totals over the finished ones, and the reason for each that failed."""

    counted: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    bytes: int = 0
    lost_bytes: int = 0
    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)

    def add(self, receipt: Receipt) -> None:
        self.counted += receipt.counted
        self.skipped.update(receipt.skipped)
        self.damaged += receipt.damaged
        self.bytes += receipt.bytes
        self.lost_bytes += receipt.lost_bytes
        self.done += 1

    @property
    def bad_fraction(self) -> float:
        """Share of images skipped or of bytes lost behind damage, whichever is worse."""
        skipped = self.skipped.total()
        return max(skipped / max(self.counted + skipped, 1), self.lost_bytes / max(self.bytes, 1))

    def judge(self, limit: float, share_done: float) -> None:
        """Raise `UserError` with the reasons if more of the data is bad than allowed, even were all the rest good."""
        if self.bad_fraction * share_done > limit:
            reasons = [f"{count} {reason}" for reason, count in self.skipped.most_common()]
            reasons += [f"{self.damaged} damaged archive(s), {self.lost_bytes} bytes behind the damage"] * bool(
                self.damaged
            )
            raise UserError(
                f"{self.bad_fraction:.1%} of the data cannot be used, more than max_bad_fraction={limit:g}: "
                f"{'; '.join(reasons)}. What is done is kept; a larger max_bad_fraction goes on from here"
            )

    def require_all(self, tasks: int) -> None:
        """Raise `UserError` if a task failed for good."""
        if self.failed:
            shown = "; ".join(f"task {index}: {fault}" for index, fault in sorted(self.failed.items())[:5])
            raise UserError(
                f"{len(self.failed)} of {tasks} task(s) failed: {shown}. The others are kept; "
                "the same command tries these again"
            )


class _Actor:
    """A worker in a process of its own. Two threads: one works, one answers `progress`."""

    def __init__(self, job: Job, state: Mapping[str, torch.Tensor]) -> None:
        self._worker = Worker(job, state)

    @ray.method(concurrency_group="work")
    def run(self, task: Task, store: Store) -> Receipt:
        return self._worker.run(task, store)

    @ray.method(concurrency_group="talk")
    def progress(self) -> tuple[int, int]:
        return self._worker.progress()


class _Pool:
    """The actors, what each is doing, and what is still to be done."""

    def __init__(self, job: Job, state: Mapping[str, torch.Tensor], config: PoolConfig, actors: int) -> None:
        self._job = ray.put(job)
        self._state = ray.put(dict(state))
        self._make = ray.remote(  # type: ignore[call-overload]  # concurrency_groups is missing there
            num_cpus=job.threads,
            num_gpus=config.gpus_per_actor,
            max_restarts=0,
            concurrency_groups={"work": 1, "talk": 1},
        )(_Actor)
        self.running: dict[Any, tuple[Any, Task]] = {}  # reference → actor, task
        self.actors: list[Any] = [self._new() for _ in range(actors)]

    def _new(self) -> Any:
        return self._make.remote(self._job, self._state)

    def give(self, task: Task, store: Store) -> bool:
        """Hand a task to the least busy actor; False when all have enough."""
        load = Counter(id(actor) for actor, _ in self.running.values())
        actor = min(self.actors, key=lambda a: load[id(a)])
        if load[id(actor)] >= IN_FLIGHT:
            return False
        self.running[actor.run.remote(task, store)] = (actor, task)
        return True

    def replace(self, dead: Any) -> None:
        """Put a fresh actor in the place of a dead one, once, however many of its tasks report the death."""
        if dead in self.actors:
            self.actors[self.actors.index(dead)] = self._new()

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def run(
    job: Job,
    state: Mapping[str, torch.Tensor],
    tasks: Sequence[Task],
    store: Store,
    config: PoolConfig,
    title: str,
    max_bad_fraction: float,
) -> Report:
    """Work through the tasks; when this returns, every task's partial is in the store or its failure reported.

    Raises `UserError` when too much of the data is bad; finished partials stay.
    """
    start_ray(config, job.threads)
    waiting, tries, report = deque(tasks), Counter[int](), Report()
    pool = _Pool(job, state, config, min(config.actors, len(tasks)))
    asked: dict[Any, Any] = {}
    under_way: dict[Any, tuple[int, int]] = {}
    last_poll = time.monotonic()
    try:
        with Tracker(title, len(tasks)) as tracker:
            while waiting or pool.running:
                while waiting and pool.give(waiting[0], store):
                    waiting.popleft()
                ready, _ = ray.wait(list(pool.running), num_returns=1, timeout=POLL_SECONDS)
                for reference in ready:
                    actor, task = pool.running.pop(reference)
                    try:
                        report.add(ray.get(reference))
                        continue
                    except ray.exceptions.RayActorError as error:
                        fault = f"its actor died ({str(error).splitlines()[0]})"
                        pool.replace(actor)
                    except ray.exceptions.RayTaskError as error:
                        fault = f"{type(error.cause).__name__}: {error.cause}"
                    tries[task.index] += 1
                    if tries[task.index] < config.attempts:
                        log.warning("task %d failed and is tried again: %s", task.index, fault)
                        waiting.appendleft(task)
                    else:
                        report.failed[task.index] = fault
                counted, skipped = (
                    _poll(pool, asked, under_way) if time.monotonic() - last_poll > POLL_SECONDS else (0, 0)
                )
                counted, skipped = max(counted, report.counted), max(skipped, report.skipped.total())
                tracker.show(report.done + len(report.failed), counted, skipped, len(pool.actors))
                report.judge(max_bad_fraction, report.done / len(tasks))
    finally:
        pool.close()
    return report


def _poll(pool: _Pool, asked: dict[Any, Any], known: dict[Any, tuple[int, int]]) -> tuple[int, int]:
    """Images counted and skipped by all actors, from the answers that are in; asks each again."""
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
    for reference in answered:
        actor = asked.pop(reference)
        try:
            known[actor] = ray.get(reference)
        except ray.exceptions.RayActorError:
            known.pop(actor, None)  # its tasks are being tried again and will be counted there
    busy = set(asked.values())
    asked.update({actor.progress.remote(): actor for actor in pool.actors if actor not in busy})
    return sum(c for c, _ in known.values()), sum(s for _, s in known.values())


def start_ray(config: PoolConfig, threads: int) -> None:
    """Join the cluster at `config.address`, or the one this job runs in, or start one on this machine."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # or lines of different actors are lost
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = config.address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {}
    if address is None:
        # Waiting threads that spin take the cores from the decoders; measured, a tenth of the speed.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        # Actors that share a laptop's cores are the user's choice: they must not wait for each other.
        local = {"num_cpus": max(config.actors * threads, os.cpu_count() or 1), "include_dashboard": False}
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True, **local)
