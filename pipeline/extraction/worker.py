"""A worker turns a task into a partial: it reads and decodes images, runs the network and updates the VDNA.

    worker = Worker(job, parameters)
    result = worker.run(task, store)         # the partial is in the store; the result has a few numbers

`Worker` is a plain class; the scheduler makes actors of it. Two tasks may run at once: while the network measures one
task, the images of the other are read, or its partial is stored.
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
    """The settings of a worker, in plain values that can be sent to any machine."""

    extractor: ExtractorConfig | None
    """The extractor that the worker builds. None if the worker is given a built one."""
    spec: Spec
    batch_size: int = 32
    threads: int = 1
    decode_threads: int = 2
    device: str = "cpu"
    patience: float = PATIENCE


@dataclass(frozen=True)
class TaskResult:
    """The numbers of a finished task: images counted and skipped, damaged shards, and bytes lost in them."""

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
    """Holds the network and no other state, so a worker that dies can be replaced by a new one."""

    def __init__(
        self,
        job: Job,
        network: Extractor | Mapping[str, torch.Tensor] | None = None,
        on_image: Callable[[int], object] = lambda _: None,
    ) -> None:
        """`network` is a built extractor, or its parameters; with None the worker loads them from their source.
        `on_image` is called with the number of images so far, at each image.

        Raises `RuntimeError` if the extractor is not the one of the job's spec.
        """
        self.job = job
        torch.set_num_threads(job.threads)
        self.extractor = network if isinstance(network, Extractor) else _built(job, network)
        if network_spec(self.extractor).network_id != job.spec.network_id:
            raise RuntimeError("this worker built another network than the plan was made for")
        passes = [Pass(self.extractor, [partial(VDNASink, job.spec)])]
        self._walk = Walk(passes, job.batch_size, job.threads, job.decode_threads, job.patience, on_image=on_image)

    def run(self, task: Task, store: CatalogueWriter) -> TaskResult:
        """Make the partial of a task and put it into the store, unless the store has it already.

        Another driver may have made it, or an actor that died before its result arrived. Raises as `vdna`.
        """
        stored = self._stored(task, store)
        if stored is not None:
            return TaskResult.of(stored.ledger)
        vdna = self.vdna(task)
        store.put_partial(vdna, task.id, self.provenance())
        return TaskResult.of(vdna.ledger)

    def _stored(self, task: Task, store: CatalogueWriter) -> VDNA | None:
        try:
            stored = store.get_partial(self.job.spec, task.id)
        except DamagedError:  # the store has removed it
            return None
        return stored[0] if stored else None

    def progress(self) -> tuple[int, int]:
        """The numbers of images counted and skipped since this worker was made, including tasks under way."""
        return self._walk.progress()

    def provenance(self) -> dict[str, Any]:
        """The settings and versions that can change the last bits of a result. They are stored with a partial, but are
        not part of the spec."""
        return {
            "batch_size": self.job.batch_size,
            "threads": self.job.threads,
            **self.extractor.provenance,
            "device": torch.cuda.get_device_name() if self.job.device == "cuda" else platform.machine(),
            "torch": torch.__version__,
        }

    def vdna(self, task: Task) -> VDNA:
        """The VDNA of a task's images. A passing fault raises an exception, and then nothing of the task counts."""
        ledger, ((sink,),) = self._walk.run(task)
        assert isinstance(sink, VDNASink)
        sink.vdna.ledger = ledger
        return sink.vdna


def _built(job: Job, parameters: Mapping[str, torch.Tensor] | None) -> Extractor:
    if job.extractor is None:
        raise ValueError("this job has no configuration to build an extractor from: give the worker its extractor")
    return build(job.extractor, job.device, parameters)


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
