"""Programs run as `python -m MODULE` runs them, each in a process of its own, without its ten seconds of imports.

    done = run("pipeline.run", ("dataset=demo_digits",), cwd=folder, env=environment, timeout=300)
    done.returncode, done.stdout, done.stderr

The process is forked from one that has imported what the programs import and done nothing else. It has a current
folder, an environment, arguments and outputs of its own, and executes the module as `__main__`. If the program starts
Ray, the workers of that Ray are forked as well (`tests.helpers.ray_workers`).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ray._raylet import Config  # type: ignore[attr-defined]

from tests.helpers import ray_workers

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.helpers.preloaded"])


def start(
    module: str, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path, err: Path
) -> ForkServerProcess:
    """A program that writes into these files, which may be the same."""
    words = (module, list(arguments), str(cwd), dict(env), out, err, ray_workers.address())
    process = SERVER.Process(target=_program, args=words)
    process.start()
    return process


def run(
    module: str, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Raises `subprocess.TimeoutExpired`, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start(module, arguments, cwd, env, out, err)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([module, *arguments], timeout, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, out.read_text(), err.read_text())


def _program(
    module: str, arguments: list[str], cwd: str, env: dict[str, str], out: Path, err: Path, workers: str
) -> None:
    for number, path in ((0, Path(os.devnull)), (1, out), (2, err)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if encoding := env.get("PYTHONIOENCODING"):  # which Python reads when it starts
        sys.stdout.reconfigure(encoding=encoding, errors="strict")
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")
    Config.initialize("")  # Ray has read the environment of the process that this one is forked from
    ray_workers.use_forked_workers(workers)
    sys.argv = ["", *arguments]
    sys.path.insert(0, cwd)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out, and Ray's own end is one of them
