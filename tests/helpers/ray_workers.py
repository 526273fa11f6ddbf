"""A Ray that starts and ends soon: workers are forked from a process that has imported what an actor needs.

    use_forked_workers(address())
    ray.init("local")

A raylet starts a worker as `python SETUP.py default_worker.py ...`. Here SETUP.py is this file, which passes the
arguments and the environment on to `serve`. Ray itself is imported after the fork: Ray reads the environment when it is
imported. Its programs that serve a dashboard, scale a cluster and forward the workers' output are left out: each takes
a second of a processor to start.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOCKET = "VDNA_TESTS_WORKERS"
"""The variable of the environment with the socket that takes requests for workers."""


@functools.cache
def address() -> str:
    """The socket of a server that lives as long as this process. The first call starts the server."""
    folder = tempfile.mkdtemp(prefix="workers")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = str(Path(folder, "socket"))
    with socket.socket(socket.AF_UNIX) as requests:
        requests.bind(path)
        requests.listen(64)
        number = requests.fileno()
        command = [sys.executable, "-c", f"from tests.helpers.ray_workers import serve; serve({number})"]
        root = Path(__file__).resolve().parents[2]
        _servers.append(subprocess.Popen(command, cwd=root, pass_fds=(number,), stdin=subprocess.PIPE))
    return path


_servers: list[subprocess.Popen[bytes]] = []


@functools.cache
def use_forked_workers(address: str) -> None:
    """From here on, each Ray that this process starts has forked workers, and only the programs that it needs."""
    from ray._private import services
    from ray._private.node import Node

    for name in ("start_api_server", "start_monitor", "start_log_monitor"):
        setattr(Node, name, lambda self, *arguments, **options: None)

    start_raylet: Any = services.start_raylet
    place = list(inspect.signature(start_raylet).parameters).index("setup_worker_path")

    def start(*arguments: Any, **options: Any) -> Any:
        os.environ[SOCKET] = address  # which the raylet inherits
        return start_raylet(*arguments[:place], __file__, *arguments[place + 1 :], **options)

    services.start_raylet = start


def serve(number: int) -> None:
    """Fork a worker for each request on this file descriptor, until standard input ends."""
    from tests.helpers import preloaded_by_workers  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    requests = socket.socket(fileno=number)
    while requests in select.select([requests, sys.stdin], [], [])[0]:
        connection, _ = requests.accept()
        with connection:
            if os.fork() == 0:
                requests.close()
                _work(**json.loads(connection.makefile("rb").readline()))


def _work(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Ray's own program of a worker, as if Python had just been started to run it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        os._exit(1)


def _request() -> None:
    arguments = [word for word in sys.argv[1:] if not word.startswith(("--serialized-runtime-env", "--language="))]
    request = {"arguments": arguments, "cwd": str(Path.cwd()), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        connection.sendall(json.dumps(request).encode() + b"\n")


if __name__ == "__main__":
    _request()
