"""Ray, joined or started, or one line that says why not and what to do, within half a minute.

    start_ray(PoolConfig(address="auto"))     # UserError names cluster.address or RAY_ADDRESS

By default Ray is started on this machine, for this command. Where RAY_ADDRESS is set, as it is inside a Ray job, the
cluster there is joined, and the log says so.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import services

from pipeline.config.settings import PoolConfig
from pipeline.errors import UserError
from pipeline.extraction.worker import cores
from pipeline.storage.urls import redact

log = logging.getLogger(__name__)

LONGEST_TMPDIR = 36
"""Characters: Ray adds up to 71 to it, and the name of a socket has at most 107."""
GPU_THREADS = 4
"""Processor threads of an actor on a GPU: there the network needs few."""
SHARED = Path("/dev/shm")
"""Where Ray holds its objects; elsewhere where there is little room, but it does not see that it cannot write."""
ANSWER = 10.0
"""Seconds in which whoever listens at a cluster's address has to answer."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
"""A program that says, by what it fails with, why a head refuses. Ray itself would ask again for a minute."""
ASKED = 15.0
"""Seconds for that program; a head that is merely slow is left to Ray."""
SETTINGS = 4
"""What a client of HTTP/2, which gRPC is, begins with; and the type of the frame that its server begins with."""


def start_ray(config: PoolConfig) -> None:
    """Join the cluster at `config.address`, or the one this job runs in, or start one on this machine.

    Raises `UserError`.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # or lines of different actors are lost
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    asked = str(config.address or "").strip()
    inherited = os.environ.get("RAY_ADDRESS", "").strip()
    address = inherited if asked in ("", "auto") and inherited else asked
    key = "cluster.address" if address == asked else "RAY_ADDRESS"
    if address in ("", "local"):
        _init("Ray cannot be started on this machine", address="local", **_alone(config))
        return
    if key == "RAY_ADDRESS":
        log.info("joining the Ray cluster at RAY_ADDRESS=%s; unset RAY_ADDRESS to start Ray on this machine", address)
    what = f"{key}={address}" if address != "auto" else "cluster=ray"
    if address != "auto":
        _look(what, address)
    _ask(what, address)
    _init(f"{what}: there is no Ray cluster to join", address=address)


def _look(what: str, address: str) -> None:
    """Raise `UserError` where nothing that could be a Ray cluster answers: Ray itself would try for many minutes."""
    protocol, sign, place = address.rpartition("://")
    host, colon, port = place.partition("/")[0].rpartition(":")
    if protocol not in ("", "ray") or not (host and colon and port.isdecimal() and int(port) < 1 << 16):
        raise UserError(
            f"{what}: give the HOST:PORT of a cluster's head (its port is usually 6379), or ray://HOST:10001"
            f"{'; a dashboard, which is where jobs are submitted, cannot be joined' * protocol.startswith('http')}"
        )
    if sign and importlib.util.find_spec("grpc") is None:
        raise UserError(f"{what}: Ray's client is not installed: pip install 'ray[client]'")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return  # whoever listens would not understand
            connection.settimeout(ANSWER)
            connection.sendall(GREETING)
            said = connection.recv(9)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{what}: no Ray cluster answers there ({error}); {_remedy()}") from None
    if len(said) < 4 or said[3] != SETTINGS:
        raise UserError(f"{what}: what answers there is no Ray cluster; {_remedy()}")


def _ask(what: str, address: str) -> None:
    """Raise `UserError` where a cluster answers but refuses this user, or at a port that is not its head's."""
    if "://" in address:
        return
    with suppress(ConnectionError):  # of "auto", where there is none: Ray says so at once
        address = services.canonicalize_bootstrap_address(address) or "auto"
    if address == "auto":
        return
    command = [sys.executable, "-c", ASK, address]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=ASKED, check=False).stderr
    except subprocess.TimeoutExpired:
        return
    if "InvalidAuthToken" in said:
        raise UserError(
            f"{what}: the Ray cluster there refuses the token of this user: put the cluster's own (ray get-auth-token, "
            "on its head) into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"
        )
    if "rpc_code: 12" in said:
        raise UserError(f"{what}: this is a port of a Ray cluster, but not its head's (usually 6379); {_remedy()}")


def _remedy() -> str:
    return (
        "to start Ray on this machine unset RAY_ADDRESS and leave cluster=ray and cluster.address out; to join a "
        "cluster set cluster.address, or RAY_ADDRESS, to the HOST:PORT of its head"
    )


def _alone(config: PoolConfig) -> dict[str, Any]:
    """How Ray is started on this machine."""
    # Waiting threads that spin take the cores from the decoders; measured, a tenth of the speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Actors that share a laptop's cores are the user's choice: they must not wait for each other.
    wanted = (config.actors or 1) * (config.threads or max(cores(), GPU_THREADS))
    _give_token()
    sessions = _sessions()
    options = {"num_cpus": max(wanted, os.cpu_count() or 1), "include_dashboard": False, "_temp_dir": str(sessions)}
    if sys.platform == "linux" and not _writable(SHARED):
        log.warning("%s cannot be written: Ray's objects lie in %s, which is slower", SHARED, sessions.parent)
        options["_plasma_directory"] = str(sessions.parent)
    return options


def _sessions() -> Path:
    """The folder of Ray's sessions, where Ray would have it. Raises `UserError` where it cannot write."""
    linux = sys.platform == "linux"
    key = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ or not linux else "TMPDIR"
    named = os.environ.get(key)
    where = Path(named or "/tmp")
    said = f"{key}={named}" if named else str(where)
    remedy = "set RAY_TMPDIR to a short folder of this machine"
    if len(str(where)) > LONGEST_TMPDIR:
        raise UserError(
            f"{said} is too long for the names of Ray's sockets, of at most {LONGEST_TMPDIR} characters: {remedy}, "
            "for instance RAY_TMPDIR=/tmp"
        )
    sessions = where / "ray"
    if not where.is_absolute() or not where.is_dir() or not _writable(sessions if sessions.exists() else where):
        raise UserError(f"{said}: Ray cannot write its sessions in {sessions}: {remedy} that this user can write to")
    return sessions


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _give_token() -> None:
    """Ray keeps the token of its own cluster in ~/.ray; where that cannot be, the environment has one for this run."""
    if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        return
    try:
        kept = Path("~/.ray/auth_token").expanduser()
        if os.access(kept, os.R_OK):
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not kept.exists() and _writable(kept.parent):
            return
    except (OSError, RuntimeError):  # a HOME that cannot be written, or none
        pass
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _init(failing: str, address: str, **options: Any) -> None:
    on_notice = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True, **options)
    except Exception as error:  # Ray's own, and those of whatever it starts
        ray.shutdown()
        cause = " ".join(str(error).split()) or type(error).__name__
        hint = "; is there room in /dev/shm and in RAY_TMPDIR?" if address == "local" else f"; {_remedy()}"
        raise UserError(redact(f"{failing} ({cause}){hint}")) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_notice)  # Ray's own ends the process where it stands
