"""A worker turns a task into a partial: it reads, decodes, runs the network and folds the statistics.

    worker = Worker(job, state)
    receipt = worker.run(task, store)         # the partial is in the store; the receipt is a few numbers

A plain class; `pool` makes actors of it. Reading and decoding run in threads ahead of the network. The
images of a task form batches in one fixed order, across its shards, so a task gives the same bytes on
any worker with the same batch size, threads and device. Two tasks may be run at once: the network is one's at a
time, while it works for one the other's images are read or its partial is stored.
"""

from __future__ import annotations

import os
import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch

from distributions import VDNA, Ledger, ShardRecord, Spec
from extractors import Extractor, ExtractorConfig, build, device_inputs
from pipeline.catalogue.writer import Store
from pipeline.data.decode import BadImage, decoded
from pipeline.data.orientation import jpeg_orientation
from pipeline.data.plan import network_spec
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Shard, Task
from pipeline.errors import DamagedError
from pipeline.extraction.feed import Feed
from pipeline.extraction.lanes import Lanes
from pipeline.storage.objects import PATIENCE

GROUP_BYTES = 64 << 20
"""JPEGs that are handed to the device at once."""


class Seen(NamedTuple):
    """An image file as the network sees it: (3, size, size) float32; and what was noticed of it."""

    tensor: torch.Tensor
    transparent: bool
    rotated: bool


Input = Seen | BadImage
"""What an image file becomes, or the reason why not."""


class File(NamedTuple):
    """An image file that the device may decode, and its EXIF orientation."""

    key: str
    data: bytes | BadImage
    orientation: int

    @classmethod
    def of(cls, key: str, data: bytes | BadImage) -> File:
        return cls(key, data, jpeg_orientation(data) if isinstance(data, bytes) else 1)


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
    lost_bytes: int

    @classmethod
    def of(cls, ledger: Ledger) -> Receipt:
        return cls(
            counted=ledger.counted,
            skipped=ledger.skipped,
            damaged=len(ledger.damaged),
            lost_bytes=sum(record.lost_bytes for record in ledger),
        )


class Worker:
    """Holds the network; has no other state, so a worker that dies is replaced by a fresh one."""

    def __init__(
        self,
        job: Job,
        network: Extractor | Mapping[str, torch.Tensor] | None = None,
        told: Callable[[int], object] = lambda _: None,
    ) -> None:
        """`network` is one that was built, or the parameters of one; None: the worker gets them from their source.
        `told` hears the number of images, with each one."""
        self.job, self._told = job, told
        torch.set_num_threads(job.threads)
        self.extractor = network if isinstance(network, Extractor) else build(job.extractor, job.device, network)
        if network_spec(self.extractor).network != job.spec.network:
            raise RuntimeError("this worker built another network than the plan was made for")
        self._lanes = Lanes(self.extractor, job.spec, job.batch_size, job.threads)
        self._turn = threading.Lock()
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
            "memory_format": str(self.extractor.memory_format).removeprefix("torch."),
            "compile": self.job.extractor.compile,
            "device": torch.cuda.get_device_name() if self.job.device == "cuda" else platform.machine(),
            "torch": torch.__version__,
        }

    def vdna(self, task: Task) -> VDNA:
        """The VDNA of the task's images. Raises on a passing fault: then nothing of the task counts."""
        readers = [ShardReader(shard, dict(task.storage), self.job.patience) for shard in task.shards]
        ahead, threads = 2 * self.job.batch_size, self.job.decode_threads
        if self.extractor.preprocess.resize == "device":
            with Feed(readers, File.of, ahead, threads) as files, self._turn:
                return self._fold(self._decoded_there(files), readers)
        with Feed(readers, self._input, ahead, threads) as images, self._turn:
            return self._fold(images, readers)

    def _fold(self, images: Iterable[tuple[int, Input]], readers: list[ShardReader]) -> VDNA:
        counted: Counter[int] = Counter()
        skipped: dict[int, Counter[str]] = {i: Counter() for i in range(len(readers))}
        noticed = {"transparent": 0, "rotated": 0}

        def batches() -> Iterator[list[torch.Tensor]]:
            batch: list[torch.Tensor] = []
            for shard, image in images:
                self._told(sum(self._done.values()) + 1)
                if isinstance(image, BadImage):
                    skipped[shard][image.reason] += 1
                    self._done["skipped"] += 1
                    continue
                counted[shard] += 1
                self._done["counted"] += 1
                noticed["transparent"] += image.transparent
                noticed["rotated"] += image.rotated
                batch.append(image.tensor)
                if len(batch) == self.job.batch_size:
                    yield batch
                    batch = []
            if batch:
                yield batch

        vdna = self._lanes.measure(batches())
        for i, reader in enumerate(readers):
            vdna.ledger.add(_record(reader, counted[i], skipped[i]))
        inside = {name: sum(getattr(reader, name) for reader in readers) for name in ("several", "archives")}
        vdna.ledger.noticed = noticed | inside
        return vdna

    def _decoded_there(self, files: Iterable[tuple[int, File]]) -> Iterator[tuple[int, Input]]:
        """Images whose JPEGs the device decodes, a batch at a time; what it does not take, the processor does."""
        files = iter(files)
        while some := _some(files, self.job.batch_size):
            jpegs = {i: file for i, (_, file) in enumerate(some) if isinstance(file.data, bytes)}
            keys, data, turns = zip(*jpegs.values(), strict=True) if jpegs else ((), (), ())
            made = device_inputs(data, keys, self.extractor.preprocess, self.extractor.device, turns)
            there = dict(zip(jpegs, made, strict=True))
            for i, (shard, file) in enumerate(some):
                tensor = there.get(i)
                whole = Seen(tensor, False, file.orientation > 1) if tensor is not None else None
                yield shard, whole or self._input(file.key, file.data)

    def _input(self, key: str, data: bytes | BadImage) -> Input:
        if isinstance(data, BadImage):
            return data
        preprocess = self.extractor.preprocess
        try:
            picture = decoded(data, **preprocess.decoding)
            return Seen(preprocess(picture.pixels, key), picture.transparent, picture.orientation > 1)
        except BadImage as bad:
            return bad


def _some(files: Iterator[tuple[int, File]], most: int) -> list[tuple[int, File]]:
    """The next files, at most so many, and no more than `GROUP_BYTES` but for the last."""
    taken, size = list[tuple[int, File]](), 0
    for shard, file in islice(files, most):
        taken.append((shard, file))
        size += len(file.data) if isinstance(file.data, bytes) else 0
        if size > GROUP_BYTES:
            break
    return taken


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
