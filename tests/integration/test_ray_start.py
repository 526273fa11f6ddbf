"""A Ray that is not there, or does not start, is one line that names the key and the remedy, and soon."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.cluster import ray_start
from pipeline.cluster.ray_start import start_ray
from pipeline.config.settings import PoolConfig
from pipeline.errors import UserError
from tests.helpers.commands import TINY, command
from tests.helpers.servers import web_server

SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""The frame with which a server of HTTP/2 begins."""
ASKED = 8.0
"""Seconds: what says no more than that frame is asked no longer."""


@pytest.fixture(autouse=True)
def joined(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray is asked to join or start; nothing is."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_start.ray, "is_initialized", lambda: False)  # type: ignore[attr-defined]
    monkeypatch.setattr(ray_start.ray, "init", lambda **options: calls.append(options))  # type: ignore[attr-defined]
    monkeypatch.setattr(ray_start.ray, "shutdown", lambda: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(ray_start, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(ray_start.services, "canonicalize_bootstrap_address", lambda address: address)  # type: ignore[attr-defined]
    monkeypatch.setattr(ray_start, "PROBE_SECONDS", ASKED)
    for name in [*os.environ]:
        if name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", "RAY_USE_TLS") or name.startswith("RAY_AUTH"):
            monkeypatch.delenv(name)
    return calls


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """A port that takes connections and says this, or closes them (nothing), or never says anything (None)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


NO_ADDRESS = "give the HOST:PORT of a cluster's head"
ADDRESSES = {
    "head.invalid:6379": "no Ray cluster answers there",
    "300.300.300.300:6379": "no Ray cluster answers there",
    "a..b:6379": "no Ray cluster answers there",
    "head": NO_ADDRESS,
    "head:": NO_ADDRESS,
    ":6379": NO_ADDRESS,
    "head:port": NO_ADDRESS,
    "head:99999999": NO_ADDRESS,
    "http://head:8265": "a dashboard, which is where jobs are submitted, cannot be joined",
    "redis://head:6379": NO_ADDRESS,
    "ray://": NO_ADDRESS,
}


@pytest.mark.parametrize("inherited", [False, True])
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_cannot_be(address: str, inherited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if inherited:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as error:
        start_ray(PoolConfig(address="auto" if inherited else address))
    message = str(error.value)
    assert message.startswith(f"RAY_ADDRESS={address}: " if inherited else f"cluster.address={address}: ")
    assert ADDRESSES[address] in message
    assert "\n" not in message


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+PONG\r\n", SETTINGS[:3]])
@pytest.mark.parametrize("protocol", ["", "ray://"])
def test_what_listens_but_is_no_cluster(
    protocol: str, answer: bytes | None, monkeypatch: pytest.MonkeyPatch, joined: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(ray_start.importlib.util, "find_spec", lambda name: name)  # type: ignore[attr-defined]
    start = time.monotonic()
    with listening(answer) as place, pytest.raises(UserError, match=r"unset RAY_ADDRESS.*set cluster\.address"):
        start_ray(PoolConfig(address=f"{protocol}{place}"))
    assert time.monotonic() - start < 5
    assert not joined


def test_a_web_server_and_a_port_that_is_closed() -> None:
    with web_server(BaseHTTPRequestHandler) as url, pytest.raises(UserError, match="is no Ray cluster"):
        start_ray(PoolConfig(address=url.removeprefix("http://")))
    with pytest.raises(UserError, match="refused"):
        start_ray(PoolConfig(address=nowhere()))


def test_rays_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"cluster\.address=ray://head:10001: .*pip install 'ray\[client\]'"):
        start_ray(PoolConfig(address="ray://head:10001"))


@pytest.mark.parametrize(
    ("address", "inherited", "expected"),
    [
        (None, None, "local"),
        (None, "", "local"),
        (None, " ", "local"),
        (None, "local", "local"),
        ("local", "head:1", "local"),
        ("auto", None, "auto"),
        ("auto", "", "auto"),
        (None, "auto", "auto"),
        (None, "PLACE", "PLACE"),
        ("auto", "PLACE", "PLACE"),
        ("PLACE", "head:1", "PLACE"),
    ],
)
def test_which_cluster_is_joined(
    address: str | None,
    inherited: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    joined: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ray_start, "PROBE_SECONDS", 0.2)  # what listens there never answers, and is left to Ray
    with listening(SETTINGS) as place:
        if inherited is not None:
            monkeypatch.setenv("RAY_ADDRESS", inherited.replace("PLACE", place))
        start_ray(PoolConfig(address=address and address.replace("PLACE", place)))
    (call,) = joined
    assert call["address"] == expected.replace("PLACE", place)
    told = "RAY_ADDRESS" in caplog.text
    assert told == (
        inherited is not None and expected == inherited and expected != "local"
    )  # nobody is joined silently


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, r"Ray cannot be started on this machine \(the raylet died twice\); is there room in /dev/shm"),
        ("auto", r"cluster=ray: there is no Ray cluster to join \(the raylet died twice\); .*unset RAY_ADDRESS"),
    ],
)
def test_whatever_ray_raises_is_one_line(
    address: str | None, message: str, monkeypatch: pytest.MonkeyPatch, joined: list[dict[str, Any]]
) -> None:
    def fails(**_: Any) -> None:
        raise ConnectionError("the raylet\n   died\ntwice")

    monkeypatch.setattr(ray_start.ray, "init", fails)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=message) as error:
        start_ray(PoolConfig(address=address))
    assert "\n" not in str(error.value)


def _missing(folder: Path) -> Path:
    return folder / "missing"


def _a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"


def _relative(folder: Path) -> Path:
    return Path("here")


def _deep(folder: Path) -> Path:
    (folder / ("x" * 40)).mkdir()
    return folder / ("x" * 40)


@pytest.mark.parametrize("key", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.parametrize("make", [_missing, _a_file, _relative, _deep])
def test_a_folder_where_ray_cannot_write(
    make: Callable[[Path], Path], key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_start, "MAX_TMPDIR_CHARACTERS", len(str(tmp_path)) + 10)
    monkeypatch.setenv(key, str(make(tmp_path)))
    with pytest.raises(UserError, match=rf"^{key}=.*: set RAY_TMPDIR to a short folder of this machine"):
        start_ray(PoolConfig())


def test_rays_sessions_lie_where_it_would_have_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, joined: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(ray_start, "MAX_TMPDIR_CHARACTERS", 1000)
    for environment in ({}, {"TMPDIR": ""}, {"TMPDIR": f"{tmp_path}"}, {"TMPDIR": "/x", "RAY_TMPDIR": f"{tmp_path}"}):
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        start_ray(PoolConfig())
    assert [call["_temp_dir"] for call in joined] == ["/tmp/ray", "/tmp/ray", f"{tmp_path}/ray", f"{tmp_path}/ray"]


def test_shared_memory_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, joined: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    start_ray(PoolConfig())
    monkeypatch.setattr(ray_start, "SHARED_MEMORY", tmp_path / "none")
    start_ray(PoolConfig())
    assert [call.get("_plasma_directory") for call in joined] == [None, "/tmp"]
    assert "none cannot be written: Ray's objects lie in /tmp" in caplog.text


@pytest.mark.parametrize("home", ["/proc", "file", "file/home"])
def test_the_token_of_a_user_without_a_home_is_in_the_environment(
    home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")  # what is set below goes when the test ends
    start_ray(PoolConfig())
    assert len(os.environ.get("RAY_AUTH_TOKEN", "")) == 64


def test_the_token_of_others_is_ray_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    start_ray(PoolConfig())
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_the_command_ends_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAY_ADDRESS left over from yesterday's cluster, and the default `cluster: local`."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "0.png")
    dead = nowhere()
    monkeypatch.setenv("RAY_ADDRESS", dead)
    where = ("dataset=images", "dataset.name=a", "dataset.url=photos")
    done = command(*where, *TINY, "distributions=[gaussian]", cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: RAY_ADDRESS={dead}: no Ray cluster answers there" in done.stderr
    assert "Traceback" not in done.stderr


HEAD = """
import os, sys
import ray
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
node = ray.nodes()[0]
print(ray.get_runtime_context().gcs_address, f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}", flush=True)
sys.stdin.read()
"""


def test_a_cluster_that_answers_but_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A head of its own, whose token is not the one of this user; another of its ports; and the right ones."""
    for key in [key for key in os.environ if key.startswith("RAY_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))
    credentials = {"RAY_AUTH_TOKEN": "a" * 32, "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-c", HEAD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **credentials}
    ) as head:
        assert head.stdin
        assert head.stdout
        try:
            head_place, other_port = head.stdout.readline().split()
            start = time.monotonic()
            for token in ({}, {**credentials, "RAY_AUTH_TOKEN": "b" * 32}):
                with monkeypatch.context() as environment:
                    for key, value in token.items():
                        environment.setenv(key, value)
                    with pytest.raises(UserError, match=r"^cluster\.address=.*refuses the token.*RAY_AUTH_TOKEN"):
                        start_ray(PoolConfig(address=head_place))
            for key, value in credentials.items():
                monkeypatch.setenv(key, value)
            with pytest.raises(UserError, match=r"this is a port of a Ray cluster, but not its head's"):
                start_ray(PoolConfig(address=other_port))
            assert time.monotonic() - start < 60
            ray_start._check_head("cluster.address", head_place)
        finally:
            head.stdin.close()
