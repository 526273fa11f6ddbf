"""Join or start Ray. A failure is one line with the cause and the remedy, within half a minute.

    start_ray(PoolConfig(address="auto"))     # UserError names cluster.address or RAY_ADDRESS

By default Ray is started on this machine, for this command. If RAY_ADDRESS is set, as it is inside a Ray job, the
command joins the cluster at that address and logs it.
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

MAX_TMPDIR_CHARACTERS = 36
"""Length of the folder's path: Ray adds up to 71 characters, and the name of a socket has at most 107."""
GPU_THREADS = 4
"""Processor threads of an actor on a GPU, where the network itself needs few."""
SHARED_MEMORY = Path("/dev/shm")
"""Ray's default place for its objects. Ray notices when there is little room, but not when it cannot write there."""
ANSWER_SECONDS = 10.0
"""Time limit for an answer from a cluster's address."""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HEAD_PROBE = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
"""A program whose error tells why a head refuses the connection. Ray itself would retry for a minute."""
PROBE_SECONDS = 15.0
"""Time limit for that program. A head that is merely slow is left to Ray."""
SETTINGS_FRAME = 4
"""The first bytes of an HTTP/2 client (gRPC is HTTP/2), and the type of the server's first frame."""


def start_ray(config: PoolConfig) -> None:
    """Join the cluster at `config.address`, or the one this job runs in, or start one on this machine.

    Returns at once if this process has joined a cluster already. Raises `UserError` if Ray cannot be joined or started.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # otherwise equal lines of different actors are lost
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    configured = str(config.address or "").strip()
    inherited = os.environ.get("RAY_ADDRESS", "").strip()
    address = inherited if configured in ("", "auto") and inherited else configured
    key = "cluster.address" if address == configured else "RAY_ADDRESS"
    if address in ("", "local"):
        _init("Ray cannot be started on this machine", address="local", **_local_options(config))
        return
    if key == "RAY_ADDRESS":
        log.info("joining the Ray cluster at RAY_ADDRESS=%s; unset RAY_ADDRESS to start Ray on this machine", address)
    what = f"{key}={address}" if address != "auto" else "cluster=ray"
    if address != "auto":
        _check_address(what, address)
    _check_head(what, address)
    _init(f"{what}: there is no Ray cluster to join", address=address)


def _check_address(what: str, address: str) -> None:
    """Raise `UserError` if no Ray cluster answers at an address. Ray itself would try for many minutes."""
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
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return  # the server expects TLS, not this greeting
            connection.settimeout(ANSWER_SECONDS)
            connection.sendall(HTTP2_PREFACE)
            answer = connection.recv(9)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{what}: no Ray cluster answers there ({error}); {_remedy()}") from None
    if len(answer) < 4 or answer[3] != SETTINGS_FRAME:
        raise UserError(f"{what}: what answers there is no Ray cluster; {_remedy()}")


def _check_head(what: str, address: str) -> None:
    """Raise `UserError` if the cluster refuses this user, or if the port is not that of its head."""
    if "://" in address:
        return
    with suppress(ConnectionError):  # address is "auto" and there is no cluster: ray.init reports that at once
        address = services.canonicalize_bootstrap_address(address) or "auto"
    if address == "auto":
        return
    command = [sys.executable, "-c", HEAD_PROBE, address]
    try:
        errors = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False).stderr
    except subprocess.TimeoutExpired:
        return
    if "InvalidAuthToken" in errors:
        raise UserError(
            f"{what}: the Ray cluster there refuses the token of this user: put the cluster's own (ray get-auth-token, "
            "on its head) into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"
        )
    if "rpc_code: 12" in errors:
        raise UserError(f"{what}: this is a port of a Ray cluster, but not its head's (usually 6379); {_remedy()}")


def _remedy() -> str:
    return (
        "to start Ray on this machine unset RAY_ADDRESS and leave cluster=ray and cluster.address out; to join a "
        "cluster set cluster.address, or RAY_ADDRESS, to the HOST:PORT of its head"
    )


def _local_options(config: PoolConfig) -> dict[str, Any]:
    """Options of `ray.init` to start Ray on this machine."""
    # Threads that spin while they wait take the cores from the decoders, which costs a tenth of the speed (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Actors may share a laptop's cores: with enough nominal processors they do not wait for each other.
    wanted = (config.actors or 1) * (config.threads or max(cores(), GPU_THREADS))
    _ensure_token()
    sessions = _session_folder()
    options = {"num_cpus": max(wanted, os.cpu_count() or 1), "include_dashboard": False, "_temp_dir": str(sessions)}
    if sys.platform == "linux" and not _writable(SHARED_MEMORY):
        log.warning("%s cannot be written: Ray's objects lie in %s, which is slower", SHARED_MEMORY, sessions.parent)
        options["_plasma_directory"] = str(sessions.parent)
    return options


def _session_folder() -> Path:
    """The folder of Ray's sessions, as Ray chooses it. Raises `UserError` if Ray cannot write there."""
    linux = sys.platform == "linux"
    key = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ or not linux else "TMPDIR"
    named = os.environ.get(key)
    parent = Path(named or "/tmp")
    setting = f"{key}={named}" if named else str(parent)
    remedy = "set RAY_TMPDIR to a short folder of this machine"
    if len(str(parent)) > MAX_TMPDIR_CHARACTERS:
        raise UserError(
            f"{setting} is too long for the names of Ray's sockets, of at most {MAX_TMPDIR_CHARACTERS} characters: "
            f"{remedy}, for instance RAY_TMPDIR=/tmp"
        )
    sessions = parent / "ray"
    if not parent.is_absolute() or not parent.is_dir() or not _writable(sessions if sessions.exists() else parent):
        raise UserError(f"{setting}: Ray cannot write its sessions in {sessions}: {remedy} that this user can write to")
    return sessions


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _ensure_token() -> None:
    """Make sure that Ray has a token for its own cluster: in ~/.ray, or else in this process's environment."""
    if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        return
    try:
        path = Path("~/.ray/auth_token").expanduser()
        if os.access(path, os.R_OK):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and _writable(path.parent):
            return
    except (OSError, RuntimeError):  # no home folder, or one that cannot be written
        pass
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _init(failure: str, address: str, **options: Any) -> None:
    """Call `ray.init`; `UserError` begins with the text `failure`."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True, **options)
    except Exception as error:  # Ray's own errors, and those of the programs it starts
        ray.shutdown()
        cause = " ".join(str(error).split()) or type(error).__name__
        hint = "; is there room in /dev/shm and in RAY_TMPDIR?" if address == "local" else f"; {_remedy()}"
        raise UserError(redact(f"{failure} ({cause}){hint}")) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own handler would end the process at once
