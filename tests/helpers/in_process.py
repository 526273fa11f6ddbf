"""Actors in threads of this process instead of Ray's, for tests that are not about Ray.

    with in_process():
        do(of(tars, catalogue, "actors=2"))

The scheduler, the pool and the worker are the real ones. What a task, a store or a receipt becomes on its way to
another process is kept: each is pickled and unpickled. Starting one of Ray's actors takes about ten seconds of a
processor, nearly all of it to import torch and timm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import pytest
import ray
import ray.cloudpickle as cloudpickle

from pipeline.cluster import actors, scheduler
from pipeline.cluster.actors import IN_FLIGHT, Pool, Setup, Spares
from pipeline.cluster.scheduler import Resources, Scheduler
from pipeline.extraction.worker import cores


class _Reference:
    """What Ray gives for a call: its answer comes later."""

    def __init__(self, answer: Future[Any]) -> None:
        self._answer = answer

    def future(self) -> Future[Any]:
        return self._answer


class _Method:
    def __init__(self, threads: ThreadPoolExecutor, method: Any) -> None:
        self._threads, self._method = threads, method

    def remote(self, *arguments: Any) -> _Reference:
        return _Reference(self._threads.submit(self._call, cloudpickle.dumps(arguments)))

    def _call(self, arguments: bytes) -> Any:
        return cloudpickle.loads(cloudpickle.dumps(self._method(*cloudpickle.loads(arguments))))


class _Argument:
    """An argument of a worker, as Ray keeps it: stored once, and passed on as a reference."""

    def __init__(self, value: Any) -> None:
        self.value = value
        _stored[id(self)] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _argument, (id(self),)


_stored: WeakValueDictionary[int, _Argument] = WeakValueDictionary()


def _argument(number: int) -> _Argument:
    return _stored[number]


class _Here:
    """The actor of the pool, with as many threads as Ray gives it."""

    def __init__(self) -> None:
        actor = actors._Actor()
        self._work, self._talk = ThreadPoolExecutor(IN_FLIGHT), ThreadPoolExecutor(1)
        self.run, self.progress = _Method(self._work, actor.run), _Method(self._talk, actor.progress)
        self.node = _Method(self._talk, lambda: "here")

    def end(self) -> None:
        """Unlike Ray's, what it is at is finished."""
        for threads in (self._work, self._talk):
            threads.shutdown(cancel_futures=True)


@contextmanager
def _pool(worker: Sequence[Any], size: int, cpus: int, gpus: float, spares: Spares | None = None) -> Iterator[Pool]:
    pool = Pool(_Here, Setup(worker[0], [_Argument(argument) for argument in worker[1:]]), size, kill=_Here.end)
    try:
        yield pool
    finally:
        pool.close()


def _resources(self: Scheduler) -> Resources:
    return Resources.of(self._config, 0, cores())


@contextmanager
def in_process() -> Iterator[None]:
    """Until its end, runs in this process have their actors here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "pool", _pool)
        patch.setattr(Scheduler, "resources", _resources)
        patch.setattr(ray, "get", lambda arguments: [argument.value for argument in arguments])
        yield
