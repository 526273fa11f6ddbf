"""The pool's loop with actors that are only played: who gets what, who is to blame, and what becomes of the rest."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from pipeline.catalogue.writer import Store
from pipeline.cluster import actors, scheduler
from pipeline.cluster.actors import IN_FLIGHT, Pool, Setup, Spares
from pipeline.cluster.scheduler import Report, dispatch
from pipeline.config.settings import PoolConfig
from pipeline.data.shards import Shard, Task
from pipeline.errors import SourceChangedError, UserError
from pipeline.extraction.worker import TaskResult

STORE = Store("memory://pool")
SETUP = Setup(NotImplemented, ())


@dataclass
class Answer:
    """A reference whose answer is set by hand."""

    answer: Future[Any] = field(default_factory=Future)

    def future(self) -> Future[Any]:
        return self.answer


@dataclass
class _Method:
    remote: Callable[..., Answer]


class Played:
    """An actor on a node. `acts` decides what becomes of a task: a result, an error, or its death."""

    def __init__(self, node: str, acts: Callable[[Played, Task], TaskResult | Exception] | None) -> None:
        self.name, self.acts = node, acts
        self.tried: list[int] = []
        self.held: list[tuple[Task, Answer]] = []
        self.started = Answer()
        if acts:
            self.started.answer.set_result(node)
        self.node, self.progress, self.run = _Method(lambda: self.started), _Method(self._nothing_yet), self
        self.dead, self.lives = False, 3

    @staticmethod
    def _nothing_yet(setup: str) -> Answer:
        answer = Answer()
        answer.answer.set_result((0, 0))
        return answer

    def remote(self, setup: Setup, task: Task, store: Store) -> Answer:
        self.tried.append(task.index)
        answer = Answer()
        self.held.append((task, answer))
        assert len(self.held) <= IN_FLIGHT
        return answer

    def work(self) -> None:
        """Do the oldest task."""
        if not self.held or self.dead:
            return
        task, answer = self.held[0]
        outcome = self.acts(self, task)
        if isinstance(outcome, RayActorError):
            self.dead = True
            for _, waiting in self.held:
                waiting.answer.set_exception(outcome)
            return
        self.held.pop(0)
        if isinstance(outcome, Exception):
            answer.answer.set_exception(outcome)
        else:
            answer.answer.set_result(outcome)


def fine(actor: Played, task: Task) -> TaskResult:
    return TaskResult(counted=1, skipped={}, damaged=0, lost_bytes=0)


def tasks(count: int) -> list[Task]:
    return [Task(i, (Shard("tar", f"{i}.tar", 1, ""),)) for i in range(count)]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(scheduler.random, "uniform", lambda low, high: 0.0)  # type: ignore[attr-defined]


def play(
    count: int, acts: Callable[[Played, Task], TaskResult | Exception], nodes: str = "abc", attempts: int = 4
) -> tuple[Report, list[Played]]:
    """All tasks through actors on these nodes, one each; a node in capitals never starts one."""
    everyone: list[Played] = []
    places = itertools.cycle(nodes)

    def spawn() -> Played:
        node = next(places)
        everyone.append(Played(node, None if node.isupper() else acts))
        return everyone[-1]

    report = Report()
    crew = Pool(spawn, SETUP, len(nodes), kill=lambda actor: None)
    for _ in dispatch(crew, tasks(count), STORE, attempts, report):
        for actor in everyone:
            actor.work()
    return report, everyone


def test_every_task_once_and_shared_out_evenly() -> None:
    report, everyone = play(90, fine)
    assert (report.done, report.counted, report.failed) == (90, 90, {})
    assert sorted(i for actor in everyone for i in actor.tried) == list(range(90))
    assert all(25 <= len(actor.tried) <= 35 for actor in everyone)


def test_an_actor_that_waits_for_a_node_holds_nothing_up() -> None:
    report, everyone = play(30, fine, nodes="aBC")
    assert report.done == 30
    assert [len(actor.tried) for actor in everyone] == [30, 0, 0]


def test_a_failed_task_goes_to_other_nodes_and_is_then_recorded() -> None:
    def acts(actor: Played, task: Task) -> TaskResult | Exception:
        return OSError("no answer") if task.index == 5 else fine(actor, task)

    report, everyone = play(30, acts, attempts=3)
    assert report.done == 29
    assert report.failed == {5: "OSError: no answer"}
    assert sorted(actor.name for actor in everyone for i in actor.tried if i == 5) == ["a", "b", "c"]


def test_a_node_that_is_cut_off_fails_nothing() -> None:
    """All that one node is given fails; the others do it."""

    def acts(actor: Played, task: Task) -> TaskResult | Exception:
        return OSError("no route") if actor.name == "b" else fine(actor, task)

    report, _ = play(60, acts, attempts=2)
    assert (report.done, report.failed) == (60, {})


def test_what_another_try_does_not_change_is_not_tried() -> None:
    def acts(actor: Played, task: Task) -> TaskResult | Exception:
        return SourceChangedError("has changed since it was planned") if task.index == 1 else fine(actor, task)

    report, everyone = play(6, acts)
    assert report.failed == {1: "SourceChangedError: has changed since it was planned"}
    assert sum(actor.tried.count(1) for actor in everyone) == 1


def test_only_the_task_under_way_is_to_blame_for_a_death() -> None:
    """A task that kills its actor is recorded after some deaths; those that waited behind it are not charged."""

    def acts(actor: Played, task: Task) -> TaskResult | Exception:
        return RayActorError() if task.index == 3 else fine(actor, task)

    report, everyone = play(40, acts)
    assert report.done == 39
    assert list(report.failed) == [3]
    assert "its actor died" in report.failed[3]
    assert sum(actor.dead for actor in everyone) == scheduler.MAX_DEATHS_PER_TASK


def test_machines_that_vanish_fail_nothing() -> None:
    """Every actor dies at its third task, whichever that is."""

    def acts(actor: Played, task: Task) -> TaskResult | Exception:
        actor.lives -= 1
        return fine(actor, task) if actor.lives else RayActorError()

    report, everyone = play(60, acts)
    assert (report.done, report.failed) == (60, {})
    assert sum(actor.dead for actor in everyone) >= 20


def test_actors_that_never_start_end_the_run() -> None:
    class NeverStarts(Played):
        def __init__(self) -> None:
            super().__init__("a", None)
            self.started.answer.set_exception(RayActorError())

    crew = Pool(NeverStarts, SETUP, 2, kill=lambda actor: None)
    with pytest.raises(UserError, match="actors die before they have started"):
        for _ in dispatch(crew, tasks(3), STORE, 4, Report()):
            pass


def test_spares_serve_pools_of_their_resources_and_end_before_others() -> None:
    ended: list[Any] = []
    spares = Spares(kill=ended.append)
    assert spares.take(4, 1.0) is None
    spares.keep(["a", "b"], 4, 1.0)
    assert spares.take(4, 1.0) == "b"
    assert (spares.take(1, 0.0), ended) == (None, ["a"])
    spares.keep(["c", "d"], 1, 0.0)
    spares.end()
    assert ended == ["a", "d", "c"]
    assert spares.take(1, 0.0) is None


def test_an_actor_makes_one_worker_for_each_setup() -> None:
    made: list[str] = []

    class Worker:
        def __init__(self, name: str) -> None:
            made.append(name)

        def run(self, task: Task, store: Store) -> TaskResult:
            return TaskResult(counted=len(made), skipped={}, damaged=0, lost_bytes=0)

        def progress(self) -> tuple[int, int]:
            return len(made), 0

    actor, (first, second) = actors._Actor(), (Setup(Worker, ["a"]), Setup(Worker, ["b"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors.ray, "get", lambda arguments: arguments)  # type: ignore[attr-defined]
        for setup in (first, first, second):
            for task in tasks(2):
                actor.run(setup, task, STORE)
    assert made == ["a", "b"]
    assert (actor.progress(first.id), actor.progress(second.id)) == ((0, 0), (2, 0))


def test_a_folder_too_long_for_sockets_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler.ray, "is_initialized", lambda: False)  # type: ignore[attr-defined]
    monkeypatch.setenv("RAY_TMPDIR", f"{tmp_path}/{'x' * 40}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="set RAY_TMPDIR to a short folder"):
        scheduler.start_ray(PoolConfig())  # type: ignore[attr-defined]
