"""Batches through the network side by side, and what they have in common merged in the end.

    lanes = Lanes(extractor, spec, batch_size=32, threads=8)
    vdna = lanes.measure(batches)             # batches: lists of (3, size, size) float32

On a processor a network on one thread for each of several batches is faster than on several threads for one: threads
that share a batch wait for each other at every layer, and so for whatever else the machine does. A GPU has one lane.
Batches go to the lanes in turn, and what each lane has measured is merged in order of the lanes, so the bytes
depend on the number of threads but on no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

from distributions import VDNA, Spec
from extractors import Extractor

MOST = 8
"""Lanes have a VDNA each, which takes 0.2 GB for a ViT-B; with more threads than this, a lane has several."""
IN_FLIGHT = 2
"""Batches of a lane: one in the network, one ready."""


class Lanes:
    """Lives as long as its worker, for its threads to stay; measures one task at a time."""

    def __init__(self, extractor: Extractor, spec: Spec, batch_size: int, threads: int) -> None:
        self._extractor, self._spec, self._batch_size = extractor, spec, batch_size
        each = -(-threads // MOST) if extractor.device.type == "cpu" else threads
        count = -(-threads // each)
        # The number of torch's threads is a setting of the thread that asks.
        self._lanes = [ThreadPoolExecutor(1, "lane", torch.set_num_threads, (each,)) for _ in range(count)]
        self._buffers: dict[int, torch.Tensor] = {}

    def measure(self, batches: Iterable[list[torch.Tensor]]) -> VDNA:
        """The VDNA of the batches, without a ledger. Raises what the network or the batches raise."""
        measured: list[VDNA] = []
        under_way: deque[Future[None]] = deque()
        try:
            for number, batch in enumerate(batches):
                lane = number % len(self._lanes)
                if number < len(self._lanes):
                    measured.append(VDNA(self._spec, self._extractor.device))
                if len(under_way) == IN_FLIGHT * len(self._lanes):
                    under_way.popleft().result()
                under_way.append(self._lanes[lane].submit(self._run, lane, batch, measured[lane]))
            while under_way:
                under_way.popleft().result()
        finally:
            wait([future for future in under_way if not future.cancel()])
        total = measured[0] if measured else VDNA(self._spec, self._extractor.device)
        for other in measured[1:]:
            total.merge(other)
        return total

    def _run(self, lane: int, batch: list[torch.Tensor], vdna: VDNA) -> None:
        shape = (len(batch), *batch[0].shape)
        if any(image.is_cuda for image in batch):
            images = torch.stack([image.to(self._extractor.device) for image in batch])
        elif self._extractor.device.type == "cuda":
            # Fresh for each batch: the last one may still be on its way to the device.
            images = torch.stack(batch, out=torch.empty(shape, pin_memory=True))
        else:
            # Always the same memory: fresh pages cost more than the copy.
            if lane not in self._buffers:
                self._buffers[lane] = torch.empty((self._batch_size, *shape[1:]))
            images = torch.stack(batch, out=self._buffers[lane][: len(batch)])
        self._extractor(images, vdna.update)
