"""Shared material: the demo data, a small network, a Ray on this machine, and ways to run the command."""

from __future__ import annotations

import io
import os
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Ray and its actors inherit these: one thread team each, and no spinning on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from hydra import compose, initialize_config_dir

from distributions import VDNA, Ranges, ShardRecord
from pipeline.config.composition import read
from pipeline.config.networks import CONF
from pipeline.config.settings import Settings
from pipeline.data import demo
from pipeline.stages.context import RunContext
from tests.material import ALL, LAYERS, activations, spec

ROOT = Path(__file__).resolve().parent.parent
TINY = ("extractor=timm", "extractor.model=test_vit", "extractor.weights=random")
"""A transformer of 160 pixels and a few thousand parameters."""


SLOWEST = ("test_faults", "test_notebook", "test_cli", "test_fid", "test_pixels", "test_models")
"""Modules that several workers begin with, so that none of them is left alone with one at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers (`-n`) the tests of a module stay together, for they share its fixtures."""
    if config.getoption("dist", "no") != "loadgroup":
        return
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    rank = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo_data")
    demo.write(folder)
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray for all tests, with room for several actors."""
    import ray

    os.environ["RAY_DEDUP_LOGS"] = "0"
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tars(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small shards of faces."""
    folder = tmp_path_factory.mktemp("tars")
    images = []
    for path in sorted((demo_data / "demo_faces").glob("*.tar")):
        with tarfile.open(path) as tar:
            images += [(m, tar.extractfile(m).read()) for m in tar if not m.name.endswith("json")]
    for shard in range(12):
        with tarfile.open(folder / f"{shard:02d}.tar", "w") as tar:
            for member, data in images[shard * 16 : shard * 16 + 16]:
                tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.fixture
def in_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs have their actors in this process, for what is not about Ray; a test that asks for `cluster` has Ray's."""
    from tests.helpers.in_process import in_process

    with nullcontext() if "cluster" in request.fixturenames else in_process():
        yield


@pytest.fixture(scope="session")
def quiet(tars: Path, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """An undisturbed run with one actor."""
    from tests.helpers.in_process import in_process
    from tests.runs import do, of

    with in_process():
        return do(of(tars, tmp_path_factory.mktemp("quiet"), "actors=1"))


def settings(*overrides: str) -> Settings:
    """The settings a command line gives."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return read(compose("config", overrides=list(overrides)))


def context(*overrides: str) -> RunContext:
    """The run that a command line asks for."""
    return RunContext(settings(*overrides))


def command(*arguments: str, module: str = "pipeline.run", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, in a process of its own."""
    from tests.helpers import forked

    return forked.run(module, arguments, cwd, {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}, 300)


@contextmanager
def web_server(
    handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[str]:
    """The URL of a web server on this machine, which answers as the handler says and logs nothing."""
    quiet = type("Quiet", (handler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", port), quiet)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Files(SimpleHTTPRequestHandler):
    root = ""
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, directory=self.root)


def static_server(root: Path | str, tls: ssl.SSLContext | None = None) -> AbstractContextManager[str]:
    """The URL of a plain server of a folder: no ranges, and a 404 for what is not there."""
    return web_server(type("Served", (_Files,), {"root": str(root)}), tls)


@pytest.fixture
def ranges() -> Ranges:
    return Ranges(LAYERS, np.linspace(-2, -1, 8), np.linspace(1, 3, 8))


@pytest.fixture
def filled(ranges: Ranges) -> Callable[..., VDNA]:
    """A VDNA of random activations, under the shard name given."""

    def make(seed: int, url: str = "", **options: Any) -> VDNA:
        vdna = VDNA(spec(options.pop("ranges", ranges), options.pop("distributions", ALL)))
        batch = activations(seed, **options)
        for layer, values in batch.items():
            vdna.update(layer, values)
        vdna.ledger.add(
            ShardRecord(url or f"shard-{seed}", size=10, counted=len(batch["first"]), skipped={"corrupt": 1})
        )
        return vdna

    return make
