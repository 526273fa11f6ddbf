"""Shared material: the demo data, a small network, a Ray on this machine, and ways to run the command.

The process that only hands tests to workers reads this file too, so what takes long to import is imported by fixtures.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from distributions import VDNA, HistogramAxes
    from pipeline.stages.context import RunContext

# Ray and its actors inherit these: one thread team each, and no spinning on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

SLOWEST = (
    "tests/faults/test_vanishing_machines.py",
    "tests/integration/test_notebook.py",
    "tests/parity/test_fid.py",
    "tests/faults/test_failing_store.py",
    "tests/integration/test_pipeline.py",
    "tests/integration/test_commands.py",
    "tests/faults/test_several_writers.py",
)
"""Files that several workers begin with, so that none of these is all that is left at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # in a worker of xdist
        rank = {name: number for number, name in enumerate(SLOWEST)}
        items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipeline.data import demo

    folder = tmp_path_factory.mktemp("demo_data")
    demo.write(folder)
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One Ray for all tests, with room for several actors."""
    import ray

    from tests.helpers import ray_workers

    ray_workers.use_forked_workers(ray_workers.address())
    os.environ["RAY_DEDUP_LOGS"] = "0"
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def shared_ray(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands join the Ray of `cluster`: one of their own takes five seconds to start."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


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
    from tests.helpers.runs import do, of

    with in_process():
        return do(of(tars, tmp_path_factory.mktemp("quiet"), "actors=1"))


@pytest.fixture
def ranges() -> HistogramAxes:
    import numpy as np

    from distributions import HistogramAxes
    from tests.helpers.material import LAYERS

    return HistogramAxes(LAYERS, np.linspace(-2, -1, 8), np.linspace(1, 3, 8))


@pytest.fixture
def filled(ranges: HistogramAxes) -> Callable[..., VDNA]:
    """A VDNA of random activations, under the shard name given."""
    from distributions import VDNA, ShardRecord
    from tests.helpers import material

    def make(seed: int, url: str = "", **options: Any) -> VDNA:
        vdna = VDNA(material.spec(options.pop("ranges", ranges), options.pop("distributions", material.ALL)))
        batch = material.activations(seed, **options)
        for layer, values in batch.items():
            vdna.update(layer, values)
        vdna.ledger.add(
            ShardRecord(url or f"shard-{seed}", size=10, counted=len(batch["first"]), skipped={"corrupt": 1})
        )
        return vdna

    return make
