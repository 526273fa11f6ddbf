"""Batches through a network side by side, into sinks that are merged in the end.

    lanes = Lanes(extractor, [partial(VDNASink, spec)], batch_size=32, threads=8)
    with lanes.begin() as measuring:          # a task
        measuring.put(batch)
        (sink,) = measuring.merged()

On a processor a network on one thread for each of several batches is faster than on several threads for one: threads
that share a batch wait for each other at every layer, and so for whatever else the machine does. A GPU has one lane.
Batches go to the lanes in turn, and what each lane has measured is merged in order of the lanes, so the bytes
depend on the number of threads but on no clock.
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
"""Lanes have a VDNA each, which takes 0.2 GB for a ViT-B; with more threads than this, a lane has several."""
IN_FLIGHT = 2
"""Batches of a lane: one in the network, one ready."""


class Batch(NamedTuple):
    """Inputs of the network, (3, size, size) float32 each, and the records of their images."""

    inputs: Sequence[torch.Tensor]
    images: Sequence[ImageRecord]


class Lanes:
    """The threads of an extractor. They live as long as their worker and measure one task at a time."""

    def __init__(self, extractor: Extractor, sinks: Sequence[SinkFactory], batch_size: int, threads: int) -> None:
        self.extractor, self.sinks, self.batch_size = extractor, sinks, batch_size
        each = -(-threads // MAX_LANES) if extractor.device.type == "cpu" else threads
        # The number of torch's threads is a setting of the thread that asks.
        self.threads = [
            ThreadPoolExecutor(1, "lane", torch.set_num_threads, (each,)) for _ in range(-(-threads // each))
        ]
        self.buffers: dict[int, torch.Tensor] = {}

    def begin(self) -> Measuring:
        """Measure a task, of which nothing has been seen yet."""
        return Measuring(self)


class Measuring:
    """A task on its way through the lanes. Leaving the context waits for the batches that are under way."""

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
        """Hand a batch to the next lane; waits while the lanes have enough. Raises what the network or a sink raised of
        an earlier batch."""
        threads = self._lanes.threads
        lane = self._batches % len(threads)
        if self._batches < len(threads):
            self._sinks.append(self._fresh())
        if len(self._under_way) == IN_FLIGHT * len(threads):
            self._under_way.popleft().result()
        self._under_way.append(threads[lane].submit(self._run, lane, batch))
        self._batches += 1

    def merged(self) -> list[Sink]:
        """The sinks with all that was put, in their factories' order. Raises what the network or a sink raised."""
        while self._under_way:
            self._under_way.popleft().result()
        total, *others = self._sinks or [self._fresh()]
        for lane in others:
            for sink, other in zip(total, lane, strict=True):
                sink.merge(other)
        return total

    def _fresh(self) -> list[Sink]:
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
            # Fresh for each batch: the last one may still be on its way to the device.
            return torch.stack(list(inputs), out=torch.empty(shape, pin_memory=True))
        # Always the same memory: fresh pages cost more than the copy.
        if lane not in buffers:
            buffers[lane] = torch.empty((self._lanes.batch_size, *shape[1:]))
        return torch.stack(list(inputs), out=buffers[lane][: len(inputs)])
