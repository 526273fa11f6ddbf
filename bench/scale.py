"""What a driver can carry: shards planned, tasks dispatched, partials merged, without a cluster.

    python -m bench.scale                     # about five minutes on two cores; docs/scale.md carries it further

Planning reads a simulated listing whose entries are those of s3fs. Dispatch is the pool's own loop over
real Ray calls; the simulated actors share a few processes and only sleep. Merging uses partials of the
size that a ViT-B makes. Every part runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import fsspec
import numpy as np
import ray

from bench.figures import VIT_B
from distributions import VDNA, HistogramAxes, Ledger, ShardRecord, Spec
from pipeline.catalogue.writer import Store
from pipeline.cluster.actors import Pool, Setup
from pipeline.cluster.scheduler import Report, dispatch
from pipeline.data.discovery import find
from pipeline.data.plan import OBSERVE, Plan
from pipeline.data.shards import Shard, Task, group
from pipeline.extraction.worker import TaskResult
from pipeline.stages import reduce

SHARDS = 1_000_000
TASKS, ACTORS, SECONDS, PROCESSES = 100_000, 1_000, 1.0, 4
IMAGES = 100_000
"""Of a task: ten shards of 10,000."""


class Bucket(fsspec.AbstractFileSystem):
    """A folder of a million shards that exists only in its listing."""

    protocol = "s3"

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        return [self._entry(f"{path}/{i:07d}.tar") for i in range(SHARDS)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "type": "directory", "size": 0}

    def find(self, path: str, *_: Any, **__: Any) -> dict[str, Any]:
        return {entry["name"]: entry for entry in self.ls(path)}

    def _entry(self, name: str) -> dict[str, Any]:
        return {
            "Key": name,
            "LastModified": datetime(2026, 1, 1, tzinfo=UTC),
            "ETag": f'"{hash(name) & (1 << 128) - 1:032x}"',
            "ChecksumAlgorithm": ["CRC32"],
            "ChecksumType": "FULL_OBJECT",
            "Size": 300_000_000 + len(name),
            "StorageClass": "STANDARD",
            "type": "file",
            "size": 300_000_000 + len(name),
            "name": name,
        }


def planning(url: str) -> dict[str, Any]:
    """Find, group, store and read back the plan of a million shards."""
    fsspec.register_implementation("s3", Bucket, clobber=True)
    start = time.monotonic()
    tasks = group(find(url), 10)
    grouped = time.monotonic()
    network = Spec("vit", "arch", "0" * 64, "clean", "bf16", VIT_B, OBSERVE)
    plan = Plan({"name": "big"}, network, tuple(tasks))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.put_plan(plan)
        fingerprint = plan.fingerprint(network)
        stored = time.monotonic()
        assert store.get_plan("big", "vit", {}).fingerprint(network) == fingerprint
        return {
            "shards": sum(len(task.shards) for task in tasks),
            "find_s": grouped - start,
            "store_s": stored - grouped,
            "total_s": stored - start,
            "read_back_s": time.monotonic() - stored,
            "plan_mb": len(plan.to_bytes()) / 1e6,
        }


class _Host:
    """A process that plays many actors."""

    async def run(self, setup: Setup, task: Task, store: Store) -> TaskResult:
        await asyncio.sleep(SECONDS)
        return TaskResult(counted=1, skipped={}, damaged=0, lost_bytes=0)

    async def node(self) -> str:
        return "node"

    async def progress(self, setup: str) -> tuple[int, int]:
        return 1, 0


def dispatching() -> dict[str, Any]:
    """100,000 tasks through the pool's own loop to 1,000 actors."""
    ray.init("local", num_cpus=PROCESSES, include_dashboard=False, logging_level="ERROR")
    hosts = [ray.remote(_Host).options(max_concurrency=ACTORS).remote() for _ in range(PROCESSES)]
    ray.get([host.node.remote() for host in hosts])  # type: ignore[attr-defined]
    hired: Iterator[int] = iter(range(sys.maxsize))
    pool = Pool(lambda: hosts[next(hired) % PROCESSES], Setup(_Host, ()), ACTORS, kill=lambda _: None)
    tasks = [Task(i, (Shard("tar", f"s3://bucket/laion/{i:07d}.tar", 300_000_000, f"{i:032x}"),)) for i in range(TASKS)]
    report, cpu, start = Report(), time.process_time(), time.monotonic()
    for _ in dispatch(pool, tasks, Store("memory://scale"), 4, report):
        pass
    wall, cpu = time.monotonic() - start, time.process_time() - cpu
    ray.shutdown()
    assert (report.done, report.failed) == (TASKS, {})
    return {"tasks": TASKS, "actors": ACTORS, "wall_s": wall, "driver_cpu_ms_per_task": cpu / TASKS * 1e3}


def merging() -> dict[str, Any]:
    """One node of the tree with partials of a ViT-B, and what a tree of 100,000 amounts to."""
    rng = np.random.default_rng(0)
    width = sum(VIT_B.values())
    ranges = HistogramAxes(VIT_B, np.full(width, -4.0), np.full(width, 4.0))
    spec = Spec(
        "vit", "arch", "0" * 64, "clean", "bf16", VIT_B, ("histogram-1000", "gaussian", "layer-gaussian"), ranges
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for i in range(reduce.FAN_IN):
            store.put_partial(_partial(spec, i, rng), f"{i:02d}", {"batch_size": 256})
        size = len(store.get(f"partials/{spec.id}/00.zip") or b"")
        merge = reduce.MergeTask(0, tuple(f"{i:02d}" for i in range(reduce.FAN_IN)), 0)
        start = time.monotonic()
        reduce.MergeWorker(spec).run(merge, store)
        seconds = time.monotonic() - start
    levels, parts = [], [Task(i, ()) for i in range(TASKS)]
    while len(parts) > reduce.FAN_IN:
        parts = reduce.next_level(parts)  # type: ignore[assignment]
        levels.append(len(parts))
    read = TASKS + sum(levels)
    return {
        "partial_mb": size / 1e6,
        "node_s": seconds,
        "depth": len(levels) + 1,
        "nodes": [*levels, 1],
        "read_tb": read * size / 1e12,
        "written_tb": sum(levels) * size / 1e12,
        "processor_hours": (sum(levels) + 1) * seconds / 3600,
    }


def _partial(spec: Spec, seed: int, rng: np.random.Generator) -> VDNA:
    """A partial with the counts of 100,000 images of 197 normally distributed positions."""
    vdna = VDNA(spec)
    state = vdna.state()
    edges = np.linspace(-4, 4, 1001)
    middle = (edges[:-1] + edges[1:]) / 2
    share = np.exp(-0.5 * (middle / rng.uniform(0.5, 1.5, (len(state["histogram"]), 1))) ** 2)
    state["histogram"] = rng.poisson(share / share.sum(1, keepdims=True) * IMAGES * 197).astype(np.uint64)
    for name, array in state.items():
        if array.dtype.kind == "f":
            state[name] = rng.standard_normal(array.shape)
    vdna.load(state, Ledger([ShardRecord(f"s3://bucket/{seed}.tar", counted=IMAGES)]))
    return vdna


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "plan-range": lambda: planning("s3://bucket/laion/{0000000..0999999}.tar"),
    "plan-folder": lambda: planning("s3://bucket/laion"),
    "dispatch": dispatching,
    "merge": merging,
}


def main(names: Sequence[str]) -> None:
    """Print a part's figures as a line of JSON; of several, each in a fresh process."""
    if len(names) == 1:
        figures = PARTS[names[0]]()
        figures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
        print(json.dumps({"part": names[0], **rounded}), flush=True)
        return
    for name in names or PARTS:
        subprocess.run([sys.executable, "-m", "bench.scale", name], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
