"""A worker turns a task into a partial: it reads, decodes, runs the network and folds the statistics.

    worker = Worker(job, state)
    receipt = worker.run(task)                # the partial is in the store; the receipt is a few numbers

A plain class; `pool` makes actors of it. Reading and decoding run in threads ahead of the network. The
images of a task form batches in one fixed order, across its shards, so a task gives the same bytes on
any worker with the same batch size, threads and device.
"""

from __future__ import annotations

import os
import platform
import queue
import threading
from collections import Counter
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from distributions import VDNA, Ledger, ShardRecord, Spec
from extractors import Extractor, ExtractorConfig, build
from pipeline.data.decode import BadImage, decode
from pipeline.data.shards import Shard, Task
from pipeline.data.streams import ShardReader
from pipeline.groups import DamagedError
from pipeline.objects import PATIENCE
from pipeline.planning import network_spec
from pipeline.store import Store

AHEAD_BYTES = 512 << 20
"""Image files that may wait to be decoded: a batch of the largest would fill any memory."""


@dataclass(frozen=True)
class Job:
    """Everything a worker has to know, in plain values that travel to any machine."""

    extractor: ExtractorConfig
    spec: Spec
    batch_size: int = 32
    threads: int = 1
    decode_threads: int = 2
    device: str = "cpu"
    patience: float = PATIENCE


@dataclass(frozen=True)
class Receipt:
    """What a finished task says of itself; its partial is in the store."""

    counted: int
    skipped: Mapping[str, int]
    damaged: int
    bytes: int
    lost_bytes: int

    @classmethod
    def of(cls, ledger: Ledger) -> Receipt:
        return cls(
            counted=ledger.counted,
            skipped=ledger.skipped,
            damaged=len(ledger.damaged),
            bytes=sum(max(record.size, 0) for record in ledger),
            lost_bytes=sum(record.lost_bytes for record in ledger),
        )


class Worker:
    """Holds the network; has no other state, so a worker that dies is replaced by a fresh one."""

    def __init__(self, job: Job, state: Mapping[str, torch.Tensor] | None = None) -> None:
        self.job = job
        torch.set_num_threads(job.threads)
        self.extractor: Extractor = build(job.extractor, job.device, state)
        if network_spec(self.extractor).network != job.spec.network:
            raise RuntimeError("this worker built another network than the plan was made for")
        self._done: Counter[str] = Counter()

    def run(self, task: Task, store: Store) -> Receipt:
        """Make the task's partial and put it into the store, whole; or find it there.

        Another driver may have made it, or an actor that died before its receipt arrived.
        """
        there = self._found(task, store)
        if there is not None:
            return Receipt.of(there.ledger)
        vdna = self.vdna(task)
        store.put_partial(vdna, task.id, self.provenance())
        return Receipt.of(vdna.ledger)

    def _found(self, task: Task, store: Store) -> VDNA | None:
        try:
            there = store.get_partial(self.job.spec, task.id)
        except DamagedError:  # and removed
            return None
        return there[0] if there else None

    def progress(self) -> tuple[int, int]:
        """Images counted and skipped since this worker was made, tasks under way included."""
        return self._done["counted"], self._done["skipped"]

    def provenance(self) -> dict[str, Any]:
        """What may change the last bits of a float: kept beside the numbers, not part of the spec."""
        return {
            "batch_size": self.job.batch_size,
            "threads": self.job.threads,
            "device": torch.cuda.get_device_name() if self.job.device == "cuda" else platform.machine(),
            "torch": torch.__version__,
        }

    def vdna(self, task: Task) -> VDNA:
        """The VDNA of the task's images. Raises on a passing fault: then nothing of the task counts."""
        torch.set_num_threads(self.job.threads)  # a setting of the calling thread
        vdna = VDNA(self.job.spec, self.extractor.device)
        readers = [ShardReader(shard, dict(task.storage), self.job.patience) for shard in task.shards]
        counted: Counter[int] = Counter()
        skipped: dict[int, Counter[str]] = {i: Counter() for i in range(len(readers))}
        batch: list[torch.Tensor] = []
        with closing(self._inputs(readers)) as inputs:
            for shard, image in inputs:
                if isinstance(image, BadImage):
                    skipped[shard][image.reason] += 1
                    self._done["skipped"] += 1
                    continue
                counted[shard] += 1
                batch.append(image)
                if len(batch) == self.job.batch_size:
                    self._fold(batch, vdna)
            if batch:
                self._fold(batch, vdna)
        for i, reader in enumerate(readers):
            vdna.ledger.add(_record(reader, counted[i], skipped[i]))
        return vdna

    def _fold(self, batch: list[torch.Tensor], vdna: VDNA) -> None:
        self.extractor(torch.stack(batch), vdna.update)
        self._done["counted"] += len(batch)
        batch.clear()

    def _inputs(self, readers: list[ShardReader]) -> Generator[tuple[int, torch.Tensor | BadImage]]:
        """Network inputs in order of the shards, read and decoded ahead by at most two batches and `AHEAD_BYTES`."""
        ahead: queue.Queue[tuple[int, Future[torch.Tensor | BadImage]] | Exception | None]
        ahead = queue.Queue(maxsize=2 * self.job.batch_size)
        stop = threading.Event()
        held, freed = 0, threading.Condition()  # bytes read and not decoded yet

        def submit(key: str, data: bytes | BadImage) -> Future[torch.Tensor | BadImage]:
            nonlocal held
            size = len(data) if isinstance(data, bytes) else 0
            with freed:
                while held and held + size > AHEAD_BYTES and not stop.is_set():
                    freed.wait(0.1)
                held += size
            future = decoders.submit(self._input, key, data)
            future.add_done_callback(lambda _: free(size))
            return future

        def free(size: int) -> None:
            nonlocal held
            with freed:
                held -= size
                freed.notify()

        def put(item: tuple[int, Future[torch.Tensor | BadImage]] | Exception | None) -> bool:
            while not stop.is_set():
                try:
                    ahead.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def read() -> None:
            try:
                for i, reader in enumerate(readers):
                    for key, data in reader:
                        if not put((i, submit(key, data))):
                            return
            except Exception as error:  # handed to the thread that consumes
                put(error)
            else:
                put(None)

        # Decoding threads must not each start a team of their own inside torch.
        with ThreadPoolExecutor(self.job.decode_threads, "decode", torch.set_num_threads, (1,)) as decoders:
            reading = threading.Thread(target=read, name="read", daemon=True)
            reading.start()
            try:
                while (item := ahead.get()) is not None:
                    if isinstance(item, Exception):
                        raise item
                    yield item[0], item[1].result()
            finally:
                stop.set()
                reading.join()

    def _input(self, key: str, data: bytes | BadImage) -> torch.Tensor | BadImage:
        if isinstance(data, BadImage):
            return data
        preprocess = self.extractor.preprocess
        try:
            return preprocess(decode(data, preprocess.least_side), key)
        except BadImage as bad:
            return bad


def _record(reader: ShardReader, counted: int, skipped: Counter[str]) -> ShardRecord:
    shard: Shard = reader.shard
    return ShardRecord(
        url=shard.url,
        part=shard.part,
        size=shard.size,
        etag=shard.etag,
        sha256=reader.sha256,
        counted=counted,
        skipped=dict(sorted(skipped.items())),
        damage=reader.damage,
        lost_bytes=reader.lost_bytes,
    )


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
