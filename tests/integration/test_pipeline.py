"""From tars to the matrix through Ray: the same bytes however the work was done, and no work twice."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributions import VDNA, ShardRecord, Spec, emd
from pipeline import make_vdna, open_catalogue
from pipeline.catalogue.writer import Store
from pipeline.cli.runs import run_stages
from pipeline.cluster import scheduler
from pipeline.cluster.actors import Spares
from pipeline.config.settings import PoolConfig
from pipeline.data.shards import Shard, Task
from pipeline.errors import DamagedError, UserError
from pipeline.stages import calibrate, extract, plan, reduce
from pipeline.stages.context import RunContext
from tests.helpers.material import activations, spec
from tests.helpers.runs import actor_processes, digest, do, manifest, of

pytestmark = pytest.mark.usefixtures("in_process")


def test_three_actors_give_the_same_bytes_as_one(quiet: RunContext, cluster: None, tars: Path, tmp_path: Path) -> None:
    assert digest(do(of(tars, tmp_path, "actors=3"))) == digest(quiet)
    for path in sorted((Path(quiet.settings.catalogue) / "partials").rglob("*.zip")):
        assert (tmp_path / path.relative_to(quiet.settings.catalogue)).read_bytes() == path.read_bytes()


def test_an_actor_killed_midway_changes_nothing(quiet: RunContext, cluster: None, tars: Path, tmp_path: Path) -> None:
    s = of(tars, tmp_path, "actors=2")
    plan.run(s)
    calibrate.run(s)
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(s.store.partials(s.spec().id)) < 2:
            time.sleep(0.005)
        for process in actor_processes()[:1]:
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    killer = threading.Thread(target=kill)
    killer.start()
    extract.run(s)
    killer.join()
    reduce.run(s)
    assert killed
    assert digest(s) == digest(quiet)


def test_actors_serve_one_run_after_the_other_and_may_die_between(
    quiet: RunContext, cluster: None, tars: Path, tmp_path: Path
) -> None:
    """A worker is made anew for every run, so another dataset or another network gives what it gives alone."""
    spares, processes = Spares(), list[set[int]]()

    def after(name: str, *overrides: str, source: Path = tars) -> RunContext:
        context = RunContext(of(source, tmp_path / name, "actors=2", *overrides).settings, spares=spares)
        run_stages(context)
        processes.append(set(actor_processes()))
        return context

    after("first", "extractor.seed=5", source=tars / "00.tar")
    after("second", source=tars / "00.tar")
    assert len(processes[0]) == 1
    assert processes[1] == processes[0]
    os.kill(max(processes[0]), signal.SIGKILL)
    assert digest(after("third")) == digest(quiet)
    assert len(processes[2]) == 2
    cut = tmp_path / "cut.tar"
    cut.write_bytes((tars / "00.tar").read_bytes()[:-9000])
    with pytest.raises(UserError, match="cannot be used"):  # a task may be under way, so its actor is ended
        after("fourth", "max_bad_fraction=0", source=cut)
    after("fifth", source=tars / "00.tar")
    assert len(processes[3]) == 1
    assert processes[3] < processes[2]
    spares.end()
    deadline = time.monotonic() + 60
    while actor_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not actor_processes()


def test_the_same_command_again_does_nothing(
    quiet: RunContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(quiet.settings.catalogue).rglob("*") if path.is_file()}

    def works(*arguments: object) -> None:
        raise AssertionError("no task is left to do")

    monkeypatch.setattr(scheduler.Scheduler, "work", works)
    do(quiet)
    after = {path: path.stat().st_mtime_ns for path in Path(quiet.settings.catalogue).rglob("*") if path.is_file()}
    changed = {path.relative_to(quiet.settings.catalogue).parts[0] for path in after if after[path] != before.get(path)}
    assert changed <= {"plans", "ranges"}
    assert after.keys() == before.keys()


def tasks_done(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The tasks that pools are given from now on."""
    done: list[Task] = []
    really = scheduler.Scheduler.work

    def spy(self: scheduler.Scheduler, spec: Spec, tasks: list[Task], *rest: Any) -> object:
        done.extend(tasks)
        return really(self, spec, tasks, *rest)

    monkeypatch.setattr(scheduler.Scheduler, "work", spy)
    return done


def test_an_interrupted_run_goes_on_with_what_is_missing(
    quiet: RunContext, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
    s = of(tars, tmp_path / "catalogue")
    shutil.rmtree(tmp_path / "catalogue" / "vdnas")
    lost = sorted((tmp_path / "catalogue" / "partials" / s.spec().id).iterdir())[::4]
    for path in lost:
        path.unlink()
    done = tasks_done(monkeypatch)
    do(s)
    assert sorted(task.id for task in done) == sorted(path.stem for path in lost)
    assert digest(s) == digest(quiet)


def test_a_new_description_needs_no_work(quiet: RunContext, tars: Path, tmp_path: Path) -> None:
    shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
    s = do(of(tars, tmp_path / "catalogue", "dataset.description=mended", "stages=[plan,reduce]"))
    entry = manifest(s)
    assert entry["description"] == "mended"
    assert digest(s) == digest(quiet)


def test_a_damaged_partial_is_named_and_made_again(
    quiet: RunContext, tars: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
    s = of(tars, tmp_path / "catalogue")
    shutil.rmtree(tmp_path / "catalogue" / "vdnas")
    victim = sorted((tmp_path / "catalogue" / "partials" / s.spec().id).iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:1000])
    assert digest(do(s)) == digest(quiet)
    assert re.search(f"{victim.name}.*is damaged.*removed", caplog.text)


def test_a_grown_dataset_computes_only_the_new_shards(
    quiet: RunContext, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
    shutil.copytree(tars, tmp_path / "tars")
    for path in tars.iterdir():
        shutil.copystat(path, tmp_path / "tars" / path.name)
    with tarfile.open(tars / "00.tar") as source, tarfile.open(tmp_path / "tars" / "12.tar", "w") as target:
        member = source.next()
        target.addfile(member, source.extractfile(member))
    s = of(tmp_path / "tars", tmp_path / "catalogue")
    do(s)  # other paths, so everything is new once
    shutil.copy(tmp_path / "tars" / "12.tar", tmp_path / "tars" / "13.tar")
    done = tasks_done(monkeypatch)
    do(s)
    assert [task.index for task in done] == [13]
    assert manifest(s)["images"] == 12 * 16 + 2


CHANGES = (
    "layers={x: blocks.0}",
    "layers={x: blocks.1}",
    "extractor.seed=1",
    "extractor.preprocess.crop=center",
    "precision=bf16",
    "layers=[norm]",
    "distributions=[histogram-50]",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_spec_reuses_nothing(quiet: RunContext, tars: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(quiet.settings.catalogue, tmp_path / "catalogue")
    s = of(tars / "00.tar", tmp_path / "catalogue", change)
    before = digest(quiet)
    specs = {path.name for path in (tmp_path / "catalogue" / "partials").iterdir()}
    do(s)
    new = {path.name for path in (tmp_path / "catalogue" / "partials").iterdir()} - specs
    assert s.spec().id in new
    assert digest(s) != before


def test_batch_size_only_changes_rounding(demo_data: Path) -> None:
    """The network itself may round otherwise; between the two, less than a thousandth of a bin."""
    source = demo_data / "demo_photographs" / "demo_photographs-00000.tar"
    v = make_vdna(source, batch_size=8)
    w = make_vdna(source, batch_size=32, ranges=v.spec.ranges)
    assert v.images == w.images == 74
    assert emd(v, w) < 1e-3


def test_many_partials_merge_as_in_one_pass(quiet: RunContext, tars: Path) -> None:
    """Twelve tasks reduced as a tree equal one pass over all images."""
    merged = open_catalogue(quiet.settings.catalogue).vdna("faces", "test_vit")
    names = ("histogram-100", "gaussian", "layer-gaussian", "activation-ranges")
    options = {"weights": "random", "ranges": merged.spec.ranges, "threads": 1, "distributions": names}
    whole = make_vdna([str(path) for path in sorted(tars.iterdir())], "test_vit", batch_size=8, **options)
    assert (merged.images, merged.ledger) == (whole.images, whole.ledger)
    assert emd(merged, whole) < 1e-3  # batches fall otherwise, so the network may round otherwise
    np.testing.assert_allclose(merged.gaussian().mean, whole.gaussian().mean, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "gpus", "share"),
    [
        (PoolConfig(), 0, (1, "cpu", 2, 0.0)),
        (PoolConfig(), 8, (8, "cuda", 4, 1.0)),
        (PoolConfig(gpus_per_actor=0.5), 4, (8, "cuda", 4, 0.5)),
        (PoolConfig(actors=3, threads=2), 8, (3, "cuda", 2, 1.0)),
        (PoolConfig(device="cpu"), 8, (1, "cpu", 2, 0.0)),
        (PoolConfig(actors=4, device="cpu"), 0, (4, "cpu", 2, 0.0)),
    ],
)
def test_open_choices_are_made_for_the_cluster(config: PoolConfig, gpus: int, share: tuple[object, ...]) -> None:
    assert scheduler.Resources.of(config, gpus, 2) == scheduler.Resources(*share)


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="device=cuda: there is no GPU here"):
        scheduler.Resources.of(PoolConfig(device="cuda"), 0, 2)


class TestTree:
    @pytest.mark.parametrize("partials", [1, 16, 17, 40, 300])
    def test_the_tree_loses_nothing_and_is_the_same_when_spread(self, partials: int, tmp_path: Path) -> None:
        shared_spec = spec(None, ("gaussian", "activation-ranges"))
        store = Store(str(tmp_path))
        tasks = [Task(i, (Shard("tar", f"{i:04d}", 1, ""),)) for i in range(partials)]
        straight = VDNA(shared_spec)
        for task in tasks:
            vdna = VDNA(shared_spec)
            for layer, batch in activations(task.index, 1).items():
                vdna.update(layer, batch)
            vdna.ledger.add(ShardRecord(f"{task.index:04d}", counted=1))
            store.put_partial(vdna, task.id, {"batch_size": task.index % 2})
            straight.merge(vdna)
        tree, made = reduce.merge_partials(store, shared_spec, [task.id for task in tasks])
        assert [record.url for record in tree.ledger] == [f"{i:04d}" for i in range(partials)]
        np.testing.assert_allclose(tree.gaussian().variance, straight.gaussian().variance, rtol=1e-12)
        assert made == {"batch_size": [0, 1] if partials > 1 else [0]}

        parts: list[Task | reduce.MergeTask] = list(tasks)
        while len(parts) > reduce.FAN_IN:
            parts = reduce.next_level(parts)  # type: ignore[assignment]
            for merge in parts:
                receipt = reduce.MergeWorker(shared_spec).run(merge, store)
                assert receipt.counted <= merge.size
        spread, made_then = reduce.merge_partials(store, shared_spec, [part.id for part in parts])
        assert (spread.digest(), spread.ledger, made_then) == (tree.digest(), tree.ledger, made)

    def test_all_damaged_partials_are_named_at_once(self, filled: Callable[..., VDNA], tmp_path: Path) -> None:
        store = Store(str(tmp_path))
        for i in range(20):
            store.put_partial(filled(i), f"{i:02d}", {})
        shared_spec = filled(0).spec
        for name in ("03", "17"):
            store.put(f"partials/{shared_spec.id}/{name}.zip", b"x")
        with pytest.raises(DamagedError, match=r"03\.zip.*17\.zip"):
            reduce.merge_partials(store, shared_spec, [f"{i:02d}" for i in range(20)])
        with pytest.raises(UserError, match="partial 03 is not there yet"):
            reduce.merge_partials(store, shared_spec, [f"{i:02d}" for i in range(20)])
