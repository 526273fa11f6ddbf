"""A worker turns a task into a partial: it reads, decodes, runs the network and folds the statistics.

    worker = Worker(job, state)
    result = worker.run(task)                # the partial is in the store; the result is a few numbers

A plain class; the scheduler makes actors of it. Two tasks may be run at once: while the network works for one, the
other's images are read or its partial is stored.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from distributions import VDNA, Ledger, Spec
from extractors import Extractor, ExtractorConfig, build
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.data.plan import network_spec
from pipeline.data.shards import Task
from pipeline.errors import DamagedError
from pipeline.extraction.sinks import VDNASink
from pipeline.extraction.walk import Pass, Walk
from pipeline.storage.objects import PATIENCE


@dataclass(frozen=True)
class Job:
    """Everything a worker has to know, in plain values that travel to any machine."""

    extractor: ExtractorConfig | None
    """What a worker builds; None: the worker is given its extractor."""
    spec: Spec
    batch_size: int = 32
    threads: int = 1
    decode_threads: int = 2
    device: str = "cpu"
    patience: float = PATIENCE


@dataclass(frozen=True)
class TaskResult:
    """What a finished task says of itself; its partial is in the store."""

    counted: int
    skipped: Mapping[str, int]
    damaged: int
    lost_bytes: int

    @classmethod
    def of(cls, ledger: Ledger) -> TaskResult:
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
        on_image: Callable[[int], object] = lambda _: None,
    ) -> None:
        """`network` is one that was built, or the parameters of one; None: the worker gets them from their source.
        `on_image` hears the number of images, with each one."""
        self.job = job
        torch.set_num_threads(job.threads)
        self.extractor = network if isinstance(network, Extractor) else _built(job, network)
        if network_spec(self.extractor).network != job.spec.network:
            raise RuntimeError("this worker built another network than the plan was made for")
        passes = [Pass(self.extractor, [partial(VDNASink, job.spec)])]
        self._walk = Walk(passes, job.batch_size, job.threads, job.decode_threads, job.patience, on_image=on_image)

    def run(self, task: Task, store: CatalogueWriter) -> TaskResult:
        """Make the task's partial and put it into the store, whole; or find it there.

        Another driver may have made it, or an actor that died before its result arrived.
        """
        there = self._found(task, store)
        if there is not None:
            return TaskResult.of(there.ledger)
        vdna = self.vdna(task)
        store.put_partial(vdna, task.id, self.provenance())
        return TaskResult.of(vdna.ledger)

    def _found(self, task: Task, store: CatalogueWriter) -> VDNA | None:
        try:
            there = store.get_partial(self.job.spec, task.id)
        except DamagedError:  # and removed
            return None
        return there[0] if there else None

    def progress(self) -> tuple[int, int]:
        """Images counted and skipped since this worker was made, tasks under way included."""
        return self._walk.progress()

    def provenance(self) -> dict[str, Any]:
        """What may change the last bits of a float: kept beside the numbers, not part of the spec."""
        return {
            "batch_size": self.job.batch_size,
            "threads": self.job.threads,
            **self.extractor.provenance,
            "device": torch.cuda.get_device_name() if self.job.device == "cuda" else platform.machine(),
            "torch": torch.__version__,
        }

    def vdna(self, task: Task) -> VDNA:
        """The VDNA of the task's images. Raises on a passing fault: then nothing of the task counts."""
        ledger, ((sink,),) = self._walk.run(task)
        assert isinstance(sink, VDNASink)
        sink.vdna.ledger = ledger
        return sink.vdna


def _built(job: Job, parameters: Mapping[str, torch.Tensor] | None) -> Extractor:
    if job.extractor is None:
        raise ValueError("this job has no configuration to build an extractor from: give the worker its extractor")
    return build(job.extractor, job.device, parameters)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
