"""Unit tests need no Ray, no network and no other process. One that reaches for them fails."""

from __future__ import annotations

import multiprocessing.process
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
import ray


@pytest.fixture(scope="package", autouse=True)
def reached() -> Iterator[list[str]]:
    """What the tests have reached for. Recorded too, since the code under test may catch the error."""
    reached: list[str] = []

    def refuse(what: str) -> Callable[..., NoReturn]:
        def refused(*arguments: Any, **options: Any) -> NoReturn:
            reached.append(what)
            raise AssertionError(f"a unit test {what}: its place is tests/integration")

        return refused

    with pytest.MonkeyPatch.context() as patch:
        for owner, name, what in (
            (socket.socket, "connect", "opens a connection"),
            (socket.socket, "connect_ex", "opens a connection"),
            (socket.socket, "bind", "listens at a port"),
            (subprocess.Popen, "__init__", "starts a program"),
            (multiprocessing.process.BaseProcess, "start", "starts a process"),
            (ray, "init", "starts Ray"),
        ):
            patch.setattr(owner, name, refuse(what))
        yield reached


@pytest.fixture(autouse=True)
def _alone(reached: list[str]) -> Iterator[None]:
    reached.clear()
    yield
    assert not reached
