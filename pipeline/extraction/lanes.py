"""Running several batches through a network in parallel. Each lane has its own sinks, which are merged at the end.

    lanes = Lanes(extractor, [partial(VDNASink, spec)], batch_size=32, threads=8)
    with lanes.begin() as measuring:          # one task
        measuring.put(batch)
        (sink,) = measuring.merged()

On a CPU, several batches with one thread each are faster than one batch with several threads: threads that share a
batch wait for each other at every layer. On a GPU there is one lane. Batches go to the lanes in turn, and the sinks are
merged in the order of the lanes. So the result depends on the number of threads, but not on timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Self

import torch

from extractors import Extractor
from pipeline.extraction.sinks import ImageRecord, Sink, SinkFactory

MAX_LANES = 8
"""Largest number of lanes. Each has its own VDNA, which takes 0.2 GB for a ViT-B. More threads are shared among the
lanes."""
IN_FLIGHT = 2
"""Batches in each lane: one in the network, one waiting."""


class Batch(NamedTuple):
    """Inputs of the network, each (3, size, size) float32, and the records of their images."""

    inputs: Sequence[torch.Tensor]
    images: Sequence[ImageRecord]


class Lanes:
    """The threads that run an extractor. They are kept for all tasks of a worker, and measure one task at a time."""

    def __init__(self, extractor: Extractor, sinks: Sequence[SinkFactory], batch_size: int, threads: int) -> None:
        self.extractor, self.sinks, self.batch_size = extractor, sinks, batch_size
        each = -(-threads // MAX_LANES) if extractor.device.type == "cpu" else threads
        # torch keeps the number of threads separately for each calling thread.
        self.threads = [
            ThreadPoolExecutor(1, "lane", torch.set_num_threads, (each,)) for _ in range(-(-threads // each))
        ]
        self.buffers: dict[int, torch.Tensor] = {}

    def begin(self) -> Measuring:
        """Begin a task, with new sinks."""
        return Measuring(self)


class Measuring:
    """A task that runs through the lanes. Leaving the context waits for the batches under way."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._sinks: list[list[Sink]] = []
        self._under_way: deque[Future[None]] = deque()
        self._batches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        wait([future for future in self._under_way if not future.cancel()])

    def put(self, batch: Batch) -> None:
        """Pass a batch to the next lane. Waits while the lanes are full. Raises the exception of the network or a sink
        for an earlier batch, if there is one."""
        threads = self._lanes.threads
        lane = self._batches % len(threads)
        if self._batches < len(threads):
            self._sinks.append(self._new_sinks())
        if len(self._under_way) == IN_FLIGHT * len(threads):
            self._under_way.popleft().result()
        self._under_way.append(threads[lane].submit(self._run, lane, batch))
        self._batches += 1

    def merged(self) -> list[Sink]:
        """Wait for all batches, and return the merged sinks in the order of their factories. Raises the exception of
        the network or a sink, if there is one."""
        while self._under_way:
            self._under_way.popleft().result()
        total, *lanes = self._sinks or [self._new_sinks()]
        for lane in lanes:
            for sink, other in zip(total, lane, strict=True):
                sink.merge(other)
        return total

    def _new_sinks(self) -> list[Sink]:
        return [make(self._lanes.extractor.device) for make in self._lanes.sinks]

    def _run(self, lane: int, batch: Batch) -> None:
        sinks = self._sinks[lane]

        def update(layer: str, activations: torch.Tensor) -> None:
            for sink in sinks:
                sink.update(layer, activations, batch.images)

        self._lanes.extractor(self._stacked(lane, batch.inputs), update)

    def _stacked(self, lane: int, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        device, buffers = self._lanes.extractor.device, self._lanes.buffers
        shape = (len(inputs), *inputs[0].shape)
        if any(image.is_cuda for image in inputs):
            return torch.stack([image.to(device) for image in inputs])
        if device.type == "cuda":
            # New memory for each batch: the previous one may still be copied to the device.
            return torch.stack(list(inputs), out=torch.empty(shape, pin_memory=True))
        # The same memory for all batches: new pages cost more than the copy.
        if lane not in buffers:
            buffers[lane] = torch.empty((self._lanes.batch_size, *shape[1:]))
        return torch.stack(list(inputs), out=buffers[lane][: len(inputs)])
