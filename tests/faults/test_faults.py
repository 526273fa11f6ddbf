"""Faults: whatever breaks, the catalogue holds what a quiet run makes, and nothing is in it that should not be.

Short by default; with FAULTS=full in the environment, as `make test-faults` sets it, in full.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from pipeline import open_catalogue
from pipeline.errors import UserError
from pipeline.stages.context import RunContext
from tests.helpers import flaky, object_store
from tests.helpers.commands import ROOT, TINY, context
from tests.helpers.in_process import in_process
from tests.helpers.object_store import ObjectStore
from tests.helpers.runs import SMALL, actor_processes, digest, do, of

FULL = os.environ.get("FAULTS") == "full"
KILLS = 24 if FULL else 6
SEED = int(os.environ.get("FAULTS_SEED", "0"))

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:unclosed")
LOUD = tuple(kind for kind in flaky.KINDS if kind not in ("hang", "stall"))
"""Kinds that cost no waiting: the short schedule has more of them."""


@pytest.fixture(scope="module")
def many(tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The faces in forty-eight shards of four: many small tasks, between which much can happen."""
    folder = tmp_path_factory.mktemp("many")
    for path in sorted(tars.glob("*.tar")):
        with tarfile.open(path) as whole:
            members = whole.getmembers()
            for start in range(0, len(members), 4):
                with tarfile.open(folder / f"{path.stem}-{start:02d}.tar", "w") as part:
                    for member in members[start : start + 4]:
                        part.addfile(member, whole.extractfile(member))
    return folder


@pytest.fixture(scope="module")
def calm(many: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest after an undisturbed run on a disk, that all others have to end with."""
    with in_process():
        return digest(do(of(many, tmp_path_factory.mktemp("calm"), "actors=1")))


# -- an object store, and one that fails ---------------------------------------------------------


@pytest.fixture(scope="module")
def store(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server with the shards in s3://shards."""
    with object_store.serve(tmp_path_factory.mktemp("s3")) as server:
        server.bucket("shards")
        fs = server.filesystem()
        for path in sorted(many.glob("*.tar")):
            fs.pipe_file(f"shards/faces/{path.name}", path.read_bytes())
        yield server


def options(store: ObjectStore) -> dict[str, Any]:
    return {"key": store.key, "secret": store.secret, "endpoint_url": store.endpoint}


def on(store: ObjectStore, catalogue: str, *overrides: str) -> RunContext:
    """The settings of a run whose shards and catalogue are in the store."""
    its = [f"+{key}.{name}={value}" for key in ("storage", "dataset.storage") for name, value in options(store).items()]
    where = ("dataset=images", "dataset.name=faces", "dataset.url=s3://shards/faces/")
    return context(*where, f"catalogue={catalogue}", *TINY, *SMALL, *its, *overrides)


def test_s3_gives_what_a_disk_gives_and_keeps_its_secrets(calm: str, store: ObjectStore, tmp_path: Path) -> None:
    """By the usual environment, in a process of its own; then all that it left behind is searched."""
    url = store.bucket("by-environment")
    sessions = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # Ray's sockets need a short path
    try:
        driver = drive(
            f"{url}/c",
            *("dataset.url=s3://shards/faces/", "actors=2"),
            environment={**store.environment, "RAY_TMPDIR": str(sessions)},
        )
        code, said = driver.end()
        assert code == 0, said
        found = open_catalogue(f"{url}/c", **options(store)).vdna("faces", "test_vit")
        assert found.digest() == calm
        logs = [path.read_bytes() for path in sessions.rglob("*") if path.is_file() and not path.is_symlink()]
        fs = store.filesystem()
        objects = [fs.cat_file(name) for name in fs.find(f"{url}/c")]
        assert len(objects) > 50
        assert len(logs) > 5
        for text in (said.encode(), *logs, *objects):
            assert store.secret.encode() not in text
            assert store.key.encode() not in text
    finally:
        shutil.rmtree(sessions)


def test_a_flaky_store_changes_nothing(calm: str, store: ObjectStore, cluster: None) -> None:
    """A share of all requests is refused, reset, cut, stalled, shortened, or carried out but not answered."""
    url = store.bucket("flaky")
    kinds = flaky.KINDS if FULL else (*flaky.KINDS, *LOUD * 2, *["lost"] * 4)
    plan = flaky.Plan(rate=0.25 if FULL else 0.1, kinds=kinds, seed=SEED)
    with flaky.FlakyProxy(store.endpoint, plan) as proxy:
        s = do(on(store.at(proxy.endpoint), f"{url}/c", "actors=2", f"patience={12 if FULL else 6}"))
        assert digest(s) == calm
    assert proxy.injected.total() > (100 if FULL else 20)
    assert set(proxy.injected) >= {"slowdown", "reset", "cut", "lost", "short"}


def test_what_stays_unreadable_is_recorded_and_stops_nothing_else(calm: str, store: ObjectStore, cluster: None) -> None:
    url = store.bucket("broken")
    plan = flaky.Plan(broken=re.compile(r"^/shards/faces/0[37]-00\.tar"), broken_as="slowdown")
    with flaky.FlakyProxy(store.endpoint, plan) as proxy:
        s = on(store.at(proxy.endpoint), f"{url}/c", "actors=2", "patience=2", "attempts=2")
        with pytest.raises(UserError, match=r"2 of 48 task\(s\) failed: task 12: .*failures/\w+/; the same command"):
            do(s)
    spec, catalogue = s.plan.network.id, on(store, f"{url}/c").store
    failures = catalogue.names(f"failures/{spec}", ".json")
    assert sorted(failures) == sorted(task.id for task in s.plan.tasks if task.index in (12, 28))
    assert "given up" in catalogue.get_json(f"failures/{spec}/{failures[0]}.json")["reason"]
    assert len(catalogue.partials(spec)) == 46
    mended = do(on(store, f"{url}/c", "actors=2"))
    assert digest(mended) == calm
    assert mended.store.names(f"failures/{spec}", ".json") == []


# -- nodes, actors and drivers that vanish -------------------------------------------------------


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A Ray cluster of a head that takes no actors and three nodes of a processor each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@dataclass
class Driver:
    """The command in a process of its own, its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """Wait for its end: exit code and output."""
        try:
            code = self.process.wait(seconds)
        finally:
            self.process.kill()
        return code, self.output.read_text()


def drive(catalogue: str | Path, *arguments: str, environment: dict[str, str] | None = None) -> Driver:
    """Start `python -m pipeline.run` as a user does."""
    output = Path(tempfile.mkstemp(prefix="driver")[1])
    where = ("dataset=images", "dataset.name=faces", f"catalogue={catalogue}")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.run", *where, *TINY, *SMALL, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Driver(process, output)


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
    code, said = driver.end()
    assert code == 0, said
    assert sum(kills.values()) == KILLS, said[-2000:]
    assert min(kills.values()) > 0
    assert read(tmp_path) == calm


def test_a_driver_killed_three_times_goes_on(calm: str, many: Path, nodes: Cluster, tmp_path: Path) -> None:
    start = (f"dataset.url={many}/*.tar", "actors=2")
    for done in (2, 30, 60):
        driver = drive(tmp_path, *start, environment={"RAY_ADDRESS": nodes.address})
        deadline = time.monotonic() + 120
        while partials(tmp_path) < done and time.monotonic() < deadline:
            time.sleep(0.01)
        driver.process.kill()
        code, said = driver.end()
        assert code == -signal.SIGKILL, said
    assert partials(tmp_path) >= 60
    code, said = drive(tmp_path, *start, environment={"RAY_ADDRESS": nodes.address}).end()
    assert code == 0, said
    assert read(tmp_path) == calm


def test_drivers_at_once_all_end_right(calm: str, many: Path, nodes: Cluster, tmp_path: Path) -> None:
    """Two of the same dataset and one of another on one catalogue: each ends well, and no row is lost."""
    environment = {"RAY_ADDRESS": nodes.address}
    drivers = [
        drive(tmp_path, f"dataset.url={many}/*.tar", "actors=1", f"dataset.name={name}", environment=environment)
        for name in ("faces", "faces", "others")
    ]
    for driver in drivers:
        code, said = driver.end()
        assert code == 0, said
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
        code, said = driver.end(60)
        assert code == 128 + signal.SIGTERM, said
        assert "what is done is kept" in said
        driver = drive(tmp_path, *start, environment={"RAY_ADDRESS": nodes.address})
    elif who == "actor":
        for actor in actor_processes()[:1]:
            os.kill(actor, signal.SIGTERM)
    else:
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=True)
        nodes.add_node(num_cpus=1)
    code, said = driver.end()
    assert code == 0, said
    assert read(tmp_path) == calm
    assert not list(tmp_path.rglob("*.tmp"))
