"""What a consumer pays for an answer from a catalogue of a thousand datasets, on a website and in a bucket on loopback.

    python -m bench catalogue

Every question begins with an empty cache. Requests and bytes are counted by the server's side; the layers are small, so
bytes of VDNAs are few and those of the matrix many, beside a catalogue of large networks.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest import mock

import s3fs

from bench import site
from bench.figures import ROUNDS, Figures, figure
from pipeline import Catalogue, open_catalogue
from pipeline.catalogue.copies import copy
from pipeline.catalogue.targets import target
from pipeline.formats.manifests import Manifests
from tests.helpers import object_store, synthetic
from tests.helpers.servers import web_server

DATASETS = 1000
METRIC = "emd"
Counted = Counter[str]


class _Website(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    counted: Counted

    def do_GET(self) -> None:
        path = self.root / self.path.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        self.counted.update(requests=1, bytes=len(data))
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def _bucket(folder: Path, counted: Counted) -> Iterator[tuple[str, dict[str, Any]]]:
    """The catalogue in a real S3 server; every call of its client is counted, and what it answers."""
    ask = s3fs.S3FileSystem._call_s3

    async def counting(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        answer = await ask(self, method, *arguments, **options)
        counted.update(requests=1, bytes=int(answer.get("ContentLength", 0)) if isinstance(answer, dict) else 0)
        return answer

    with tempfile.TemporaryDirectory() as where, object_store.serve(Path(where)) as server:
        options = {"key": server.key, "secret": server.secret, "endpoint_url": server.endpoint}
        url = f"{server.bucket('public')}/catalogue"
        copy(Manifests(str(folder)), target(url, options))
        s3fs.S3FileSystem._call_s3 = counting
        try:
            yield url, options
        finally:
            s3fs.S3FileSystem._call_s3 = ask


def measure() -> Figures:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "catalogue"
        synthetic.make(folder, DATASETS)
        counted: Counted = Counter()
        with web_server(type("Counting", (_Website,), {"root": folder, "counted": counted})) as url:
            figures = _questions("static http", url, {}, counted)
        with _bucket(folder, counted) as (url, options):
            figures |= _questions("S3", url, options, counted)
        return figures | site.measure(DATASETS, str(folder))


def _questions(where: str, url: str, options: dict[str, Any], counted: Counted) -> Figures:
    stranger = synthetic.filled(synthetic.spec_of(distributions=synthetic.FAST), "a-stranger", 3, synthetic.IMAGES)
    a, b = open_catalogue(url, **options).index()["dataset"].iloc[[0, -1]]
    asked: dict[str, Callable[[Catalogue], object]] = {
        "index read": Catalogue.index,
        "nearest 10 of a dataset": lambda cat: cat.nearest(a, k=10),
        "nearest 10 of new images": lambda cat: cat.nearest(stranger, k=10),
        "a pair compared": lambda cat: cat.compare(a, b, metrics=[METRIC]).most(10),
    }
    figures: Figures = {}
    for question, ask in asked.items():
        rounds = [_one(ask, url, options, counted) for _ in range(ROUNDS)]
        name = f"catalogue of {DATASETS}, {where}, {question}"
        for what, values in zip(("seconds", "requests", "kB"), zip(*rounds, strict=True), strict=True):
            figures[f"{name}: {what}"] = figure(values, {"seconds": "s", "requests": "", "kB": "kB"}[what])
    return figures


def _one(
    ask: Callable[[Catalogue], object], url: str, options: dict[str, Any], counted: Counted
) -> tuple[float, float, float]:
    """Seconds, requests and kilobytes, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"VDNA_CACHE": cache}):
        counted.clear()
        start = time.perf_counter()
        ask(open_catalogue(url, **options))
        return time.perf_counter() - start, counted["requests"], counted["bytes"] / 1000
