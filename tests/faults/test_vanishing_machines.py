"""Nodes, actors and drivers that vanish: the catalogue holds what a quiet run makes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipeline import open_catalogue
from tests.helpers import ray_workers
from tests.helpers.drivers import drive
from tests.helpers.runs import actor_processes
from tests.helpers.schedule import FULL, SEED

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:unclosed")


KILLS = 24 if FULL else 6


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A Ray cluster of a head that takes no actors and three nodes of a processor each."""
    ray_workers.use_forked_workers(ray_workers.address())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def partials(catalogue: Path) -> int:
    return len(list(catalogue.glob("partials/*/*.zip")))


def read(catalogue: Path, dataset: str = "faces") -> str:
    """The digest of a VDNA as a consumer reads it."""
    return open_catalogue(str(catalogue)).vdna(dataset, "test_vit").digest()


def test_kills_all_over_a_cluster_change_nothing(calm: str, many: Path, nodes: Cluster, tmp_path: Path) -> None:
    """Actors and whole nodes are killed at random moments, and again, while the run goes on."""
    rng = random.Random(SEED)
    driver = drive(tmp_path, f"dataset.url={many}/*.tar", "actors=3", environment={"RAY_ADDRESS": nodes.address})
    kills = {"actor": 0, "node": 0}
    done, due = 0, 0.0
    while driver.running and sum(kills.values()) < KILLS:
        time.sleep(0.01)
        # At every new partial, when an actor is surely at work, and now and then between.
        now, before = partials(tmp_path), done
        done = max(done, now)
        actors = actor_processes() if now > before or time.monotonic() > due else []
        if not actors:
            continue
        due = time.monotonic() + rng.uniform(4, 8)
        if sum(kills.values()) % 3 == 2:
            nodes.remove_node(rng.choice(list(nodes.worker_nodes)), allow_graceful=False)
            nodes.add_node(num_cpus=1)
            kills["node"] += 1
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(actors), signal.SIGKILL)
                kills["actor"] += 1
    code, output = driver.end()
    assert code == 0, output
    assert sum(kills.values()) == KILLS, output[-2000:]
    assert min(kills.values()) > 0
    assert read(tmp_path) == calm


def test_a_driver_killed_three_times_goes_on(calm: str, many: Path, nodes: Cluster, tmp_path: Path) -> None:
    start = (f"dataset.url={many}/*.tar", "actors=2")
    tasks = len(list(many.iterdir()))
    for done in (2, tasks * 5 // 8, tasks * 5 // 4):  # partials: of calibration, and of extraction
        driver = drive(tmp_path, *start, environment={"RAY_ADDRESS": nodes.address})
        deadline = time.monotonic() + 120
        while partials(tmp_path) < done and time.monotonic() < deadline:
            time.sleep(0.01)
        driver.process.kill()
        code, output = driver.end()
        assert code == -signal.SIGKILL, output
    assert partials(tmp_path) >= tasks * 5 // 4
    code, output = drive(tmp_path, *start, environment={"RAY_ADDRESS": nodes.address}).end()
    assert code == 0, output
    assert read(tmp_path) == calm


def test_drivers_at_once_all_end_right(calm: str, many: Path, nodes: Cluster, tmp_path: Path) -> None:
    """Two of the same dataset and one of another on one catalogue: each ends well, and no row is lost."""
    environment = {"RAY_ADDRESS": nodes.address}
    drivers = [
        drive(tmp_path, f"dataset.url={many}/*.tar", "actors=1", f"dataset.name={name}", environment=environment)
        for name in ("faces", "faces", "others")
    ]
    for driver in drivers:
        code, output = driver.end()
        assert code == 0, output
    assert read(tmp_path) == read(tmp_path, "others") == calm
    matrix = open_catalogue(str(tmp_path)).distances("test_vit", "emd")
    assert sorted(matrix["dataset"].to_numpy()) == ["faces", "others"]
    assert float(abs(matrix).max()) == 0
    assert "others" in set(open_catalogue(str(tmp_path)).index()["dataset"])


@pytest.mark.parametrize("who", ["driver", "actor", "node"])
def test_a_notice_to_end_is_taken_cleanly(calm: str, many: Path, nodes: Cluster, tmp_path: Path, who: str) -> None:
    """SIGTERM, as a machine that is taken away sends it: nothing half done stays, and the run goes on from there."""
    start = (f"dataset.url={many}/*.tar", "actors=2")
    driver = drive(tmp_path, *start, environment={"RAY_ADDRESS": nodes.address})
    while partials(tmp_path) < 3 and driver.running:
        time.sleep(0.01)
    if who == "driver":
        driver.process.terminate()
        code, output = driver.end(60)
        assert code == 128 + signal.SIGTERM, output
        assert "what is done is kept" in output
        driver = drive(tmp_path, *start, environment={"RAY_ADDRESS": nodes.address})
    elif who == "actor":
        for actor in actor_processes()[:1]:
            os.kill(actor, signal.SIGTERM)
    else:
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=True)
        nodes.add_node(num_cpus=1)
    code, output = driver.end()
    assert code == 0, output
    assert read(tmp_path) == calm
    assert not list(tmp_path.rglob("*.tmp"))
