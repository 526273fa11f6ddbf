"""Published catalogues behind a web server, and what is done to them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from distributions import emd, fd, nfd
from pipeline import open_catalogue
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from tests.helpers import synthetic
from tests.helpers.servers import web_server


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << random.Random(place).randrange(8)
    path.write_bytes(data)


def add(store: Store, seed: int) -> None:
    """Measure the first dataset anew, compare and publish, as a run does."""
    spec = synthetic.spec_of()
    name = store.manifests()[0]["dataset"]
    store.put_vdna(synthetic.filled(spec, f"again-{seed}", 1, 8), name, synthetic.facts_of(name, 1))
    synthetic.compared(store, spec)
    assert publish(store)


def consistent(url: str, **options: Any) -> int:
    """Open a catalogue as a stranger does, and see that its matrix is of its VDNAs; the first one's version."""
    cat = open_catalogue(url, **options)
    names = cat.index()["dataset"].tolist()
    frame = cat.matrix("vit_small").frame
    comparison = cat.compare(names[0], names[1], metrics=["emd"])
    assert comparison.overall["emd"] == pytest.approx(frame.loc[names[0], names[1]], rel=1e-12)
    return int(cat.index()["version"][0])


DATASETS = 40


METRICS = {"emd": emd, "nfd": nfd, "fd": fd}


class Files(BaseHTTPRequestHandler):
    """A static website, which counts what it is asked for."""

    root: Path
    asked: Counter[str]
    sent: Counter[str]
    unpacked_on_the_way = False

    def do_GET(self) -> None:
        path = self.root / self.path.lstrip("/")
        self.asked[self.path] += 1
        data = path.read_bytes() if path.is_file() else b""
        self.sent[self.path] += len(data)
        self.send_response(200 if path.is_file() else 404)
        if path.suffix == ".gz" and self.unpacked_on_the_way:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def website(root: Path, **more: Any) -> Iterator[tuple[str, Counter[str]]]:
    """A folder's URL, and what it was asked for."""
    asked: Counter[str] = Counter()
    with web_server(type("Site", (Files,), {"root": root, "asked": asked, "sent": Counter(), **more})) as url:
        yield url, asked
