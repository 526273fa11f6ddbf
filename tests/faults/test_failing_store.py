"""Runs through an object store that fails: the catalogue holds what a quiet run makes."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_catalogue
from pipeline.errors import UserError
from pipeline.stages.context import RunContext
from tests.helpers import flaky, object_store
from tests.helpers.commands import TINY, context
from tests.helpers.drivers import drive
from tests.helpers.object_store import ObjectStore
from tests.helpers.runs import SMALL, digest, do
from tests.helpers.schedule import FULL, SEED

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:unclosed")


LOUD = tuple(kind for kind in flaky.KINDS if kind not in ("hang", "stall"))
"""Kinds that cost no waiting: the short schedule has more of them."""


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
    given = [
        f"+{key}.{name}={value}" for key in ("storage", "dataset.storage") for name, value in options(store).items()
    ]
    where = ("dataset=images", "dataset.name=faces", "dataset.url=s3://shards/faces/")
    return context(*where, f"catalogue={catalogue}", *TINY, *SMALL, *given, *overrides)


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
        code, output = driver.end()
        assert code == 0, output
        vdna = open_catalogue(f"{url}/c", **options(store)).vdna("faces", "test_vit")
        assert vdna.digest() == calm
        logs = [path.read_bytes() for path in sessions.rglob("*") if path.is_file() and not path.is_symlink()]
        fs = store.filesystem()
        objects = [fs.cat_file(name) for name in fs.find(f"{url}/c")]
        assert len(objects) > 50
        assert len(logs) > 5
        for text in (output.encode(), *logs, *objects):
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


def test_what_stays_unreadable_is_recorded_and_stops_nothing_else(
    calm: str, store: ObjectStore, in_process: None
) -> None:
    url = store.bucket("broken")
    tasks = 48 if FULL else 24
    first, second = tasks // 3, tasks * 2 // 3
    plan = flaky.Plan(broken=re.compile(r"^/shards/faces/0[48]-00\.tar"), broken_as="slowdown")
    with flaky.FlakyProxy(store.endpoint, plan) as proxy:
        s = on(store.at(proxy.endpoint), f"{url}/c", "actors=2", "patience=2", "attempts=2")
        with pytest.raises(
            UserError, match=rf"2 of {tasks} task\(s\) failed: task {first}: .*failures/\w+/; the same command"
        ):
            do(s)
    spec, catalogue = s.plan.network_spec.id, on(store, f"{url}/c").store
    failures = catalogue.names(f"failures/{spec}", ".json")
    assert sorted(failures) == sorted(task.id for task in s.plan.tasks if task.index in (first, second))
    assert "given up" in catalogue.get_json(f"failures/{spec}/{failures[0]}.json")["reason"]
    assert len(catalogue.partials(spec)) == tasks - 2
    mended = do(on(store, f"{url}/c", "actors=2"))
    assert digest(mended) == calm
    assert mended.store.names(f"failures/{spec}", ".json") == []
