"""A real S3 server on this machine, for as long as a test needs it.

    with serve(tmp_path) as store:
        url = store.bucket("shards")                       # "s3://shards"
        store.filesystem().pipe_file(f"{url}/a.tar", data)
        subprocess.run(..., env={**os.environ, **store.environment})
        store.at(proxy.endpoint).filesystem()              # the same store, by another way

It is SeaweedFS's `weed server`: master, volume, filer and S3 gateway in one process, all on loopback.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import s3fs

PARTS = ("master", "volume", "filer", "s3")
START_S = 60
GUARDED = 'exec 3<&0; "$@" 3<&- & weed=$!; { cat <&3; kill -9 $weed; } & wait $weed; rm -f $SOCKETS'
"""Ends the server when the standard input does: at the end of a test, and when the tests themselves are killed.
SIGTERM would not do: a clean stop takes 15 s, and the data is thrown away."""
SOCKET = "/tmp/seaweedfs-{part}-grpc-{port}.sock"
"""weed always makes these, and a killed one leaves them behind."""


@dataclass(frozen=True)
class ObjectStore:
    """Where an S3 server is, and the credentials it asks for: peculiar ones, so that a leak can be searched for."""

    endpoint: str
    key: str = "AKIALEAKCANARY4TESTS"
    secret: str = "secret-canary/7Qx+never-to-be-printed"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead botocore, and so s3fs, here."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def filesystem(self, **options: Any) -> s3fs.S3FileSystem:
        """A file system of its own: no connections, listings or settings shared with another."""
        return s3fs.S3FileSystem(
            key=self.key,
            secret=self.secret,
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": "us-east-1"},
            skip_instance_cache=True,
            **options,
        )

    def bucket(self, name: str) -> str:
        """Make a bucket; its URL."""
        self.filesystem().mkdir(name)
        return f"s3://{name}"

    def at(self, endpoint: str) -> ObjectStore:
        """The same store behind a proxy."""
        return replace(self, endpoint=endpoint)


@contextmanager
def serve(folder: Path) -> Iterator[ObjectStore]:
    """Run an empty S3 server that keeps its data and `weed.log` in a folder. Up in about 3 s, gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = dict(zip(PARTS, _free_ports(), strict=True))
    store = ObjectStore(f"http://127.0.0.1:{ports['s3']}")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": store.key, "secretKey": store.secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    sockets = [SOCKET.format(part=part, port=port + 10_000) for part, port in ports.items()]
    log = folder / "weed.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", GUARDED, "sh", *_command(ports)],
            cwd=folder,
            # Every bucket gets volumes of its own: one to begin with is enough, the default is seven.
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "SOCKETS": " ".join(sockets)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with process:
        try:
            _wait(process, ports, log)
            yield store
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _command(ports: dict[str, int]) -> list[str]:
    return [
        str(Path(sys.executable).with_name("weed")),
        "-logtostderr=true",
        "server",
        "-dir=.",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{part}.port={port}" for part, port in ports.items()),
        "-master.peers=none",  # no election, which would take a second or two
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=128",
        "-volume.max=100",
        "-filer",
        "-filer.localSocket=filer.sock",
        "-s3",
        "-s3.config=s3.json",
        "-s3.localSocket=s3.sock",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]


def _free_ports() -> list[int]:
    """A port for each part, whose gRPC port, 10000 above, is free too. All lie below the range from which the
    kernel takes the ports of outgoing connections, or one of those could come between here and weed."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(10_000, 20_000), 1000):
        if _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
        if len(ports) == len(PARTS):
            return ports
    raise OSError("no free ports between 10000 and 30000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait(process: subprocess.Popen[bytes], ports: dict[str, int], log: Path) -> None:
    """Until the gateway answers and a volume takes data: the gateway is up first, and a PUT then would fail."""
    deadline = time.monotonic() + START_S
    urls = [f"http://127.0.0.1:{ports['s3']}/healthz", f"http://127.0.0.1:{ports['master']}/dir/assign"]
    while not all(map(_answers, urls)):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
            raise RuntimeError(f"the S3 server did not start within {START_S} s:\n{tail}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
