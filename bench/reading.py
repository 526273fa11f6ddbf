"""Reading from a distant object store: with requests ahead of the reader, against one request at a time.

    python -m bench.reading                   # about three minutes

The store is a process of its own on this machine. It answers s3fs as S3 would, each request after 30 ms, and no
connection is faster than 100 MB/s. Both ways read the same objects and take turns. A ratio compares neighbouring
turns. Nothing is decoded: the figures are those of the reader alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.figures import ROUNDS, Figures, figure, ratios, seconds, table
from bench.pictures import tar
from pipeline.data.discovery import group_version
from pipeline.data.listing import Entry
from pipeline.data.readers import ShardReader, in_turn
from pipeline.data.shards import Shard
from pipeline.storage import ahead

LATENCY_S, CONNECTION_MB_S = 0.03, 100
MEMBER = 100_000
"""Bytes of a JPEG of about 500 pixels."""
MEMBERS = 640
SMALL_TARS = 16
PIECE = 1 << 18
ONE_AT_A_TIME = {"MAX_RANGES_AHEAD": 0, "FIRST_FILES_AHEAD": 1, "MAX_FILES_AHEAD": 1}


class Far(BaseHTTPRequestHandler):
    """The files of a folder as the objects of a bucket, with GET, HEAD and ranges."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: dict[str, bytes]

    def do_GET(self) -> None:
        time.sleep(LATENCY_S)
        data = memoryview(self.objects[self.path.rpartition("/")[2]])
        size = len(data)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, last = int(asked[1]), min(int(asked[2]), size - 1)
            data = data[start : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{last}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{size}"')
        self.end_headers()
        due = time.monotonic()
        for at in range(0, len(data) * (self.command == "GET"), PIECE):
            self.wfile.write(data[at : at + PIECE])
            due += len(data[at : at + PIECE]) / CONNECTION_MB_S / 1e6
            time.sleep(max(due - time.monotonic(), 0))

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def serve(folder: str) -> None:
    Far.objects = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Far)
    print(server.server_port, flush=True)
    server.serve_forever()


@contextmanager
def served(folder: Path) -> Iterator[dict[str, Any]]:
    """Serve a folder as a bucket. The value is the storage options to read it with."""
    with subprocess.Popen([sys.executable, "-m", "bench.reading", "serve", str(folder)], stdout=subprocess.PIPE) as far:
        assert far.stdout is not None
        url = f"http://127.0.0.1:{int(far.stdout.readline())}"
        try:
            yield {"key": "k", "secret": "s", "endpoint_url": url, "client_kwargs": {"region_name": "us-east-1"}}
        finally:
            far.terminate()


def files(paths: Sequence[Path]) -> Shard:
    entries = [Entry(f"s3://far/{path.name}", path.stat().st_size, str(path.stat().st_size)) for path in paths]
    names, sizes = tuple(e.name for e in entries), tuple(e.size for e in entries)
    return Shard("files", "s3://far", sum(sizes), group_version(entries), "all", names, sizes)


def archive(path: Path) -> Shard:
    size = path.stat().st_size
    return Shard("tar", f"s3://far/{path.name}", size, str(size))


def measure() -> Figures:
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = [np.random.default_rng(i).bytes(MEMBER) for i in range(MEMBERS)]
        loose = [folder / f"{i:03d}.jpg" for i in range(500)]
        for path, image in zip(loose, images, strict=False):
            path.write_bytes(image)
        whole = tar(folder / "whole.tar", images)
        tars = [tar(folder / f"{i:02d}.tar", images[i::SMALL_TARS]) for i in range(SMALL_TARS)]
        with served(folder) as storage:

            def speeds(shards: list[Shard], read: Callable[[list[ShardReader]], object]) -> Callable[[], float]:
                """A function that reads the shards and returns MB/s."""
                size = sum(shard.size for shard in shards) / 1e6
                return lambda: size / seconds(lambda: read([ShardReader(shard, storage) for shard in shards]))

            for part, shards in {
                "tar": [archive(whole)],
                "files": [files(loose[:256]), files(loose[256:])],
                "small_tars": [archive(path) for path in tars],
            }.items():
                ours, theirs = speeds(shards, lambda readers: sum(1 for _ in in_turn(readers))), speeds(shards, alone)
                ours()  # opens the connections
                now, before = [], []
                for _turn in range(ROUNDS):
                    with mock.patch.multiple(ahead, **ONE_AT_A_TIME):
                        before.append(theirs())
                    now.append(ours())
                figures[f"read_ahead_{part}"] = figure(ratios(now, before), "times the MB/s of one request at a time")
                figures[f"read_{part}_mb_s"] = figure(now, "MB/s")
    return figures


def alone(readers: list[ShardReader]) -> int:
    """Read one shard after another, without a request ahead. Returns the number of images."""
    return sum(1 for reader in readers for _ in reader)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        print(table(measure()))
