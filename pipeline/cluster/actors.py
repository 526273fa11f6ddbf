"""Ray actors, each with a worker of its own, and what each is doing.

    with pool((Worker, job, state), size=8, cpus=4, gpus=1) as actors:
        actors.give(task, store)
        for member, task, outcome in actors.events():              # outcome: a result, or why there is none
            ...

An actor gets tasks once it has said that it runs, so one that waits for a node holds nothing up; one
that dies is replaced.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
import ray.exceptions

from pipeline.catalogue.writer import Store
from pipeline.data.shards import Work
from pipeline.errors import UserError
from pipeline.extraction.worker import TaskResult

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Tasks of an actor: one has the network, the other is read ahead or stored."""
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
MOST_STILLBORN = 8
"""Times the number of actors that may die in a row before any has started: then none ever will."""


Died = ray.exceptions.RayActorError


class Workman(Protocol):
    """What an actor needs of the plain class it runs."""

    def run(self, task: Any, store: Store) -> TaskResult: ...

    def progress(self) -> tuple[int, int]: ...


class _Actor:
    """A worker in a process of its own. Three threads: two work, so that one reads or stores while the other's images
    go through the network, and one answers.

    The worker is made by the first task and not by the constructor: what goes wrong is then the task's
    error, with its message, and not the death of an actor.
    """

    def __init__(self, make: Callable[..., Workman], *arguments: Any) -> None:
        self._make, self._arguments = make, arguments
        self._worker: Workman | None = None
        self._making = threading.Lock()

    @ray.method(concurrency_group="work")
    def run(self, task: Work, store: Store) -> TaskResult:
        with self._making:
            self._worker = self._worker or self._make(*self._arguments)
        return self._worker.run(task, store)

    @ray.method(concurrency_group="talk")
    def node(self) -> str:
        """The node it runs on: its first answer says that it runs."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="talk")
    def progress(self) -> tuple[int, int]:
        return self._worker.progress() if self._worker else (0, 0)


@dataclass(eq=False)
class Member:
    """An actor, the node it runs on, the tasks it has (the oldest is under way), and how far it says it is."""

    actor: Any
    node: str = ""
    tasks: list[Work] = field(default_factory=list)
    progress: tuple[int, int] = (0, 0)
    asked: bool = False


Event = tuple[str, Member, Work | None, "Future[Any]"]


class Pool:
    """The actors and what each is doing. Everything that happens is an event, so that nothing here grows with
    the number of actors or tasks but what has to be said to each.

    `hire` makes an actor and `dismiss` ends one.
    """

    def __init__(self, hire: Callable[[], Any], size: int, dismiss: Callable[[Any], None] = ray.kill) -> None:
        self._hire, self._dismiss = hire, dismiss
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._members: set[Member] = set()
        self._room: list[dict[Member, None]] = [{} for _ in range(IN_FLIGHT)]  # started ones, by number of tasks
        self.tasks = 0
        """Tasks that the actors have."""
        self._stillborn = 0
        self._polled = self._news = time.monotonic()
        for _ in range(size):
            self._start()

    @property
    def alive(self) -> int:
        """Actors that have started."""
        return sum(1 for member in self._members if member.node)

    def _start(self) -> None:
        member = Member(self._hire())
        self._members.add(member)
        self._expect("started", member, None, member.actor.node.remote())

    def _expect(self, kind: str, member: Member, task: Work | None, reference: Any) -> None:
        reference.future().add_done_callback(lambda answer: self._events.put((kind, member, task, answer)))

    def give(self, task: Work, store: Store, avoid: Iterable[str] = ()) -> bool:
        """Hand a task to one of the least busy actors, of another node than those to `avoid` where there is one.

        False when all have enough.
        """
        for room in self._room:
            if room:
                avoid = set(avoid)
                elsewhere = (m for r in self._room for m in r if m.node not in avoid)
                member = (next(elsewhere, None) if avoid else None) or next(iter(room))
                self._seat(member, task)
                self._expect("done", member, task, member.actor.run.remote(task, store))
                return True
        return False

    def _seat(self, member: Member, task: Work) -> None:
        del self._room[len(member.tasks)][member]
        member.tasks.append(task)
        self.tasks += 1
        if len(member.tasks) < IN_FLIGHT:
            self._room[len(member.tasks)][member] = None

    def _unseat(self, member: Member, task: Work) -> None:
        if len(member.tasks) < IN_FLIGHT:
            del self._room[len(member.tasks)][member]
        member.tasks.remove(task)
        self.tasks -= 1
        self._room[len(member.tasks)][member] = None

    def events(self) -> Iterator[tuple[Member, Work, TaskResult | Exception]]:
        """Tasks that ended, with their result or error, as they come; waits for one but not for long.

        An actor that died ends all its tasks, first the one that was under way.
        """
        timeout = POLL_SECONDS
        while True:
            try:
                kind, member, task, answer = self._events.get(timeout=timeout)
            except queue.Empty:
                return
            timeout = 0.0
            if member not in self._members:
                continue  # what a dead actor still had to say
            error = answer.exception()
            if isinstance(error, Died):
                for lost in self._bury(member, error):
                    yield member, lost, error
            elif task is not None:
                self._unseat(member, task)
                yield member, task, error if isinstance(error, Exception) else answer.result()
            elif error is not None:
                raise error
            elif kind == "started":
                member.node, self._stillborn, self._news = answer.result(), 0, time.monotonic()
                self._room[0][member] = None
            else:
                member.progress, member.asked = answer.result(), False

    def _bury(self, member: Member, error: Exception) -> list[Work]:
        """Put a fresh actor in the place of a dead one; returns the tasks it had."""
        self._members.remove(member)
        self.tasks -= len(member.tasks)
        for room in self._room:
            room.pop(member, None)
        self._stillborn += not member.node
        if self._stillborn > MOST_STILLBORN * (len(self._members) + 1):
            raise UserError(f"actors die before they have started: {error}")
        self._dismiss(member.actor)  # it may only be out of reach, and would hold its GPU
        self._start()
        return member.tasks

    def progress(self) -> tuple[int, int]:
        """Images counted and skipped, by the last answers; asks again now and then."""
        now = time.monotonic()
        if now - self._polled > max(POLL_SECONDS, len(self._members) / 100):
            self._polled = now
            for member in self._members:
                if member.node and not member.asked:
                    member.asked = True
                    self._expect("progress", member, None, member.actor.progress.remote())
            if not self.alive and now - self._news > PATIENCE_SECONDS:
                self._news = now
                log.warning("no actor runs: is there a node with the processors and GPUs it asks for?")
        answers = [member.progress for member in self._members]
        return sum(c for c, _ in answers), sum(s for _, s in answers)

    def close(self) -> None:
        for member in self._members:
            self._dismiss(member.actor)


@contextmanager
def pool(arguments: Sequence[Any], size: int, cpus: int, gpus: float) -> Iterator[Pool]:
    """Actors, each of which calls its first argument with the others to make its worker."""
    make = ray.remote(  # type: ignore[call-overload]  # concurrency_groups is missing there
        num_cpus=cpus, num_gpus=gpus, max_restarts=0, concurrency_groups={"work": IN_FLIGHT, "talk": 1}
    )(_Actor)
    actors = Pool(lambda: make.remote(*arguments), size)
    try:
        yield actors
    finally:
        actors.close()
