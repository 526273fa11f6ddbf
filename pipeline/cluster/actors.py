"""A pool of Ray actors, each with a worker of its own, and the tasks that each actor has.

    with pool((Worker, job, state), size=8, cpus=4, gpus=1) as actors:
        actors.give(task, store)
        for member, task, outcome in actors.events():              # outcome: a TaskResult or an exception
            ...

An actor gets its first task after it has started, so an actor that waits for a node delays no task. An actor that dies
is replaced. An actor takes ten seconds to start, nearly all of them for its imports, so one pool can leave its actors
to the next (`Spares`).
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
from uuid import uuid4

import ray
import ray.exceptions

from pipeline.catalogue.writer import CatalogueWriter
from pipeline.data.shards import Work
from pipeline.errors import UserError
from pipeline.extraction.worker import TaskResult

log = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Tasks of an actor: while one is in the network, the other is read ahead or stored."""
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""After so long without a running actor, a warning is logged."""
MAX_FAILED_STARTS = 8
"""Failed starts in a row, as a multiple of the number of actors, after which the pool gives up."""


ActorDiedError = ray.exceptions.RayActorError


class TaskRunner(Protocol):
    """What an actor needs of the plain class it runs."""

    def run(self, task: Any, store: CatalogueWriter) -> TaskResult:
        """Do a task and store its partial."""

    def progress(self) -> tuple[int, int]:
        """Images counted and skipped so far."""


@dataclass(frozen=True)
class Setup:
    """How the actors of a pool make their worker: its class, and Ray's references to the arguments of that class."""

    make: Callable[..., TaskRunner]
    arguments: Sequence[Any]
    id: str = field(default_factory=lambda: uuid4().hex)


class _Actor:
    """A worker in a process of its own, with three threads.

    Two threads run tasks, so that one task is read or stored while the images of the other go through the network. The
    third thread answers questions.

    The first task of a setup makes the worker, and not the constructor: an error in making it is then the task's
    error, with its message, and not the death of an actor.
    """

    def __init__(self) -> None:
        self._setup = ""
        self._worker: TaskRunner | None = None
        self._make_lock = threading.Lock()

    @ray.method(concurrency_group="work")
    def run(self, setup: Setup, task: Work, store: CatalogueWriter) -> TaskResult:
        with self._make_lock:
            if self._worker is None or self._setup != setup.id:
                self._worker = None  # two networks at once may be more than the device can hold
                self._worker, self._setup = setup.make(*ray.get(list(setup.arguments))), setup.id
            worker = self._worker
        return worker.run(task, store)

    @ray.method(concurrency_group="talk")
    def node(self) -> str:
        """The id of the actor's node. The first answer shows that the actor has started."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="talk")
    def progress(self, setup: str) -> tuple[int, int]:
        """Images that the worker of the setup with this id has counted and skipped."""
        return self._worker.progress() if self._worker and self._setup == setup else (0, 0)


@dataclass(eq=False)
class Member:
    """An actor of the pool, with its node ("" until it has started) and its tasks, of which the oldest is under way.

    `progress` is the actor's last answer; `asked` is true while the pool waits for the next one.
    """

    actor: Any
    node: str = ""
    tasks: list[Work] = field(default_factory=list)
    progress: tuple[int, int] = (0, 0)
    asked: bool = False


Event = tuple[str, Member, Work | None, "Future[Any]"]


class Pool:
    """The actors and their tasks. Every answer of an actor is an event in one queue, so that a step costs the same for
    any number of actors and tasks.

    `spawn` makes an actor and `kill` ends one.
    """

    def __init__(
        self, spawn: Callable[[], Any], setup: Setup, size: int, kill: Callable[[Any], None] = ray.kill
    ) -> None:
        self._spawn, self._setup, self._kill = spawn, setup, kill
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._members: set[Member] = set()
        self._by_load: list[dict[Member, None]] = [{} for _ in range(IN_FLIGHT)]  # started ones, by number of tasks
        self.tasks = 0
        """Tasks that the actors have."""
        self._failed_starts = 0
        self._last_poll = self._last_start = time.monotonic()
        for _ in range(size):
            self._start()

    @property
    def alive(self) -> int:
        """Actors that have started."""
        return sum(1 for member in self._members if member.node)

    def _start(self) -> None:
        member = Member(self._spawn())
        self._members.add(member)
        self._expect("started", member, None, member.actor.node.remote())

    def _expect(self, kind: str, member: Member, task: Work | None, reference: Any) -> None:
        """Put an event into the queue once an actor has answered."""
        reference.future().add_done_callback(lambda answer: self._events.put((kind, member, task, answer)))

    def give(self, task: Work, store: CatalogueWriter, avoid: Iterable[str] = ()) -> bool:
        """Give a task to an actor and return whether one could take it.

        An actor on a node outside `avoid` comes first. Then an actor with fewer tasks comes first. Without an actor on
        another node, one on a node in `avoid` gets the task.
        """
        for members in self._by_load:
            if members:
                avoid = set(avoid)
                elsewhere = (m for load in self._by_load for m in load if m.node not in avoid)
                member = (next(elsewhere, None) if avoid else None) or next(iter(members))
                self._assign(member, task)
                self._expect("done", member, task, member.actor.run.remote(self._setup, task, store))
                return True
        return False

    def _assign(self, member: Member, task: Work) -> None:
        del self._by_load[len(member.tasks)][member]
        member.tasks.append(task)
        self.tasks += 1
        if len(member.tasks) < IN_FLIGHT:
            self._by_load[len(member.tasks)][member] = None

    def _unassign(self, member: Member, task: Work) -> None:
        if len(member.tasks) < IN_FLIGHT:
            del self._by_load[len(member.tasks)][member]
        member.tasks.remove(task)
        self.tasks -= 1
        self._by_load[len(member.tasks)][member] = None

    def events(self) -> Iterator[tuple[Member, Work, TaskResult | Exception]]:
        """Tasks that have ended, each with its result or its error, in the order in which they ended.

        Waits at most `POLL_SECONDS` for the first. The death of an actor ends all its tasks; the task that was under
        way comes first. Raises `UserError` if no actor can start.
        """
        timeout = POLL_SECONDS
        while True:
            try:
                kind, member, task, answer = self._events.get(timeout=timeout)
            except queue.Empty:
                return
            timeout = 0.0
            if member not in self._members:
                continue  # an answer of an actor that was replaced
            error = answer.exception()
            if isinstance(error, ActorDiedError):
                for lost in self._replace(member, error):
                    yield member, lost, error
            elif task is not None:
                self._unassign(member, task)
                yield member, task, error if isinstance(error, Exception) else answer.result()
            elif error is not None:
                raise error
            elif kind == "started":
                member.node, self._failed_starts, self._last_start = answer.result(), 0, time.monotonic()
                self._by_load[0][member] = None
            else:
                member.progress, member.asked = answer.result(), False

    def _replace(self, member: Member, error: Exception) -> list[Work]:
        """Replace a dead actor by a new one and return the tasks of the dead one."""
        self._members.remove(member)
        self.tasks -= len(member.tasks)
        for members in self._by_load:
            members.pop(member, None)
        self._failed_starts += not member.node
        if self._failed_starts > MAX_FAILED_STARTS * (len(self._members) + 1):
            raise UserError(f"actors die before they have started: {error}")
        self._kill(member.actor)  # an actor that is only out of reach would keep its GPU
        self._start()
        return member.tasks

    def progress(self) -> tuple[int, int]:
        """Images counted and skipped, by each actor's last answer. Asks the actors again from time to time."""
        now = time.monotonic()
        if now - self._last_poll > max(POLL_SECONDS, len(self._members) / 100):
            self._last_poll = now
            for member in self._members:
                if member.node and not member.asked:
                    member.asked = True
                    self._expect("progress", member, None, member.actor.progress.remote(self._setup.id))
            if not self.alive and now - self._last_start > PATIENCE_SECONDS:
                self._last_start = now
                log.warning("no actor runs: is there a node with the processors and GPUs it asks for?")
        answers = [member.progress for member in self._members]
        return sum(c for c, _ in answers), sum(s for _, s in answers)

    def release(self) -> list[Any]:
        """The actors, which are no longer in the pool. None may have a task."""
        actors = [member.actor for member in self._members]
        self._members.clear()
        return actors

    def close(self) -> None:
        """End all actors."""
        for actor in self.release():
            self._kill(actor)


class Spares:
    """Actors that a pool has left, without tasks, for the next pool that gives its actors the same resources."""

    def __init__(self, kill: Callable[[Any], None] = ray.kill) -> None:
        self._kill = kill
        self._actors: list[Any] = []
        self._resources: tuple[int, float] = (0, 0.0)

    def take(self, cpus: int, gpus: float) -> Any | None:
        """An actor with so many processors and GPUs, or None. Actors with others are ended: they may hold what new
        actors need."""
        if self._resources != (cpus, gpus):
            self.end()
        return self._actors.pop() if self._actors else None

    def keep(self, actors: Sequence[Any], cpus: int, gpus: float) -> None:
        """Keep actors with so many processors and GPUs."""
        self._actors += actors
        self._resources = cpus, gpus

    def end(self) -> None:
        """End the actors that are kept."""
        while self._actors:
            self._kill(self._actors.pop())


@contextmanager
def pool(worker: Sequence[Any], size: int, cpus: int, gpus: float, spares: Spares | None = None) -> Iterator[Pool]:
    """A pool of `size` actors, each with `cpus` processors and `gpus` GPUs, ended when the block is left.

    `worker` is the class of the worker and the arguments of that class. With `spares`, the pool begins with the actors
    there, and leaves its own there unless the block raises an exception.
    """
    make = ray.remote(  # type: ignore[call-overload]  # concurrency_groups is missing there
        num_cpus=cpus, num_gpus=gpus, max_restarts=0, concurrency_groups={"work": IN_FLIGHT, "talk": 1}
    )(_Actor)
    kind, *arguments = worker
    setup = Setup(kind, [ray.put(argument) for argument in arguments])
    actors = Pool(lambda: (spares and spares.take(cpus, gpus)) or make.remote(), setup, size)
    try:
        yield actors
    except BaseException:
        actors.close()
        raise
    if spares is None:
        actors.close()
    else:
        spares.keep(actors.release(), cpus, gpus)
