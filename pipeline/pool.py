"""A pool of Ray actors that work through tasks.

    run(settings, spec, plan.tasks, "extracting demo_digits")      # every task's partial is in the store

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

from distributions import Spec
from pipeline.config import PoolConfig, Settings
from pipeline.data.sources import Task
from pipeline.errors import UserError
from pipeline.progress import Tracker
from pipeline.store import Store
from pipeline.worker import Job, Receipt, Worker, cores

log = logging.getLogger(__name__)

IN_FLIGHT = 2
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
GPU_THREADS = 4
"""Processor threads of an actor on a GPU: there the network needs few."""


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

    def judge(self, limit: float, plan_bytes: int) -> None:
        """Raise `UserError` with the reasons if more of a plan is bad than allowed, were all the rest of it good.

        Spares the rest of a hopeless run; the exact verdict is the reduce stage's, from the ledger.
        """
        if self.bad_fraction * self.bytes > limit * plan_bytes:
            reasons = [f"{count} {reason}" for reason, count in self.skipped.most_common()]
            reasons += [f"{self.damaged} damaged archive(s), {self.lost_bytes} bytes behind the damage"] * bool(
                self.damaged
            )
            raise UserError(
                f"{self.bad_fraction:.1%} of the data cannot be used, more than max_bad_fraction={limit:g}: "
                f"{'; '.join(reasons)}. What is done is kept; a larger max_bad_fraction goes on from here"
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

        Threads never follow from the number of actors, or the last bits of the results would.
        """
        device = config.device if config.device != "auto" else ("cuda" if cluster_gpus else "cpu")
        if device == "cuda" and not cluster_gpus:
            raise UserError("device=cuda: there is no GPU here; use device=cpu or device=auto")
        gpus = config.gpus_per_actor if config.gpus_per_actor is not None else float(device == "cuda")
        actors = config.actors or (max(int(cluster_gpus / gpus), 1) if gpus else 1)
        return cls(actors, device, config.threads or (GPU_THREADS if device == "cuda" else cores), gpus)


class _Actor:
    """A worker in a process of its own. Two threads: one works, one answers `progress`.

    The worker is made by the first task and not by the constructor: what goes wrong is then the task's
    error, with its message, and not the death of an actor.
    """

    def __init__(self, job: Job, state: Mapping[str, torch.Tensor]) -> None:
        self._job, self._state = job, state
        self._worker: Worker | None = None

    @ray.method(concurrency_group="work")
    def run(self, task: Task, store: Store) -> Receipt:
        if self._worker is None:
            self._worker = Worker(self._job, self._state)
        return self._worker.run(task, store)

    @ray.method(concurrency_group="talk")
    def progress(self) -> tuple[int, int]:
        return self._worker.progress() if self._worker else (0, 0)


class _Pool:
    """The actors, what each is doing, and how far they say they are."""

    def __init__(self, job: Job, state: Mapping[str, torch.Tensor], gpus: float, actors: int) -> None:
        self._job = ray.put(job)
        self._state = ray.put(dict(state))
        self._make = ray.remote(  # type: ignore[call-overload]  # concurrency_groups is missing there
            num_cpus=job.threads,
            num_gpus=gpus,
            max_restarts=0,
            concurrency_groups={"work": 1, "talk": 1},
        )(_Actor)
        self.running: dict[Any, tuple[Any, Task]] = {}  # reference → actor, task; oldest first
        self.actors: list[Any] = [self._new() for _ in range(actors)]
        self._asked: dict[Any, Any] = {}  # reference → actor
        self._answers: dict[Any, tuple[int, int]] = {}
        self._started = self._polled = time.monotonic()

    def _new(self) -> Any:
        return self._make.remote(self._job, self._state)

    def give(self, task: Task, store: Store) -> bool:
        """Hand a task to the least busy actor; False when all have enough."""
        load = Counter(actor for actor, _ in self.running.values())
        actor = min(self.actors, key=lambda a: load[a])
        if load[actor] >= IN_FLIGHT:
            return False
        self.running[actor.run.remote(task, store)] = (actor, task)
        return True

    def bury(self, dead: Any) -> list[Task]:
        """Put a fresh actor in the place of a dead one; returns the tasks it had, the one under way first."""
        self.actors[self.actors.index(dead)] = self._new()
        self._answers.pop(dead, None)
        lost = [reference for reference, (actor, _) in self.running.items() if actor == dead]
        return [self.running.pop(reference)[1] for reference in lost]

    def poll(self) -> tuple[int, int, int]:
        """Images counted, images skipped, and actors alive, by the last answers; asks again now and then."""
        if time.monotonic() - self._polled > max(POLL_SECONDS, len(self.actors) / 100):
            self._polled = time.monotonic()
            answered = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)[0] if self._asked else []
            for reference in answered:
                actor = self._asked.pop(reference)
                try:
                    self._answers[actor] = ray.get(reference)
                except ray.exceptions.RayActorError:
                    self._answers.pop(actor, None)
            asked = set(self._asked.values())
            self._asked.update({actor.progress.remote(): actor for actor in self.actors if actor not in asked})
            if not self._answers and self._polled - self._started > PATIENCE_SECONDS:
                self._started = self._polled
                log.warning("no actor has started yet: is there a node with the processors and GPUs it asks for?")
        return sum(c for c, _ in self._answers.values()), sum(s for _, s in self._answers.values()), len(self._answers)

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def run(settings: Settings, spec: Spec, tasks: Sequence[Task], title: str) -> None:
    """See to it that every task has its partial of that spec in the store; those that are there are not made again.

    Raises `UserError` when too much of the data is bad or tasks failed for good; finished partials stay.
    """
    there = settings.store.partials(spec.id)
    missing = [task for task in tasks if task.id not in there]
    if not missing:
        return
    log.info("%s: %d of %d task(s) to do", title, len(missing), len(tasks))
    report = work(settings, spec, missing, title, sum(task.size for task in tasks))
    if report.failed:
        shown = "; ".join(f"task {index}: {fault}" for index, fault in sorted(report.failed.items())[:5])
        raise UserError(
            f"{len(report.failed)} of {len(tasks)} task(s) failed: {shown}. The others are kept; "
            "the same command tries these again"
        )


def work(settings: Settings, spec: Spec, tasks: Sequence[Task], title: str, plan_bytes: int) -> Report:
    """Work through the tasks that a plan still lacks; one whose actor dies or which raises is tried again."""
    config, store = settings.pool, settings.store
    start_ray(config)
    share = Share.of(config, ray.cluster_resources().get("GPU", 0), cores())  # type: ignore[no-untyped-call]
    waiting, tries, report = deque(tasks), Counter[int](), Report()
    job = settings.job(spec, share.device, share.threads)
    pool = _Pool(job, settings.network.state(), share.gpus, min(share.actors, len(tasks)))
    try:
        with Tracker(title, len(tasks)) as tracker:
            while waiting or pool.running:
                while waiting and pool.give(waiting[0], store):
                    waiting.popleft()
                for reference in ray.wait(list(pool.running), num_returns=1, timeout=POLL_SECONDS)[0]:
                    actor, task = pool.running[reference]
                    try:
                        report.add(ray.get(reference))
                        del pool.running[reference]
                        continue
                    except ray.exceptions.RayActorError as error:
                        # Only the task under way can be to blame; the one that waited behind it is not charged.
                        task, *behind = pool.bury(actor)
                        waiting.extendleft(behind)
                        fault = f"its actor died ({str(error).splitlines()[0]})"
                    except ray.exceptions.RayTaskError as error:
                        del pool.running[reference]
                        fault = f"{type(error.cause).__name__}: {error.cause}"
                    tries[task.index] += 1
                    if tries[task.index] < config.attempts:
                        log.warning("task %d failed and is tried again: %s", task.index, fault)
                        waiting.append(task)
                    else:
                        report.failed[task.index] = fault
                counted, skipped, alive = pool.poll()
                counted, skipped = max(counted, report.counted), max(skipped, report.skipped.total())
                tracker.show(report.done + len(report.failed), counted, skipped, alive)
                report.judge(settings.max_bad_fraction, plan_bytes)
    finally:
        pool.close()
    return report


def start_ray(config: PoolConfig) -> None:
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
        wanted = (config.actors or 1) * (config.threads or max(cores(), GPU_THREADS))
        local = {"num_cpus": max(wanted, os.cpu_count() or 1), "include_dashboard": False}
    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True, **local)
