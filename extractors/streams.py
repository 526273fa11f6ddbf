"""Work beside a network's own on a CUDA device: images arrive, and activations are consumed, on streams of their own.

streams = Streams(device)
images = streams.bring(images)                # the next batch's copy runs beside this batch's layers
with streams.beside(activations):             # a layer's statistics run beside the next layers
    sink(layer, activations)
streams.join()                                # what is in the current stream from here on comes after all of it

The processor never waits: it only says which work comes after which.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Streams:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copies: torch.cuda.Stream
        self._consumption: torch.cuda.Stream
        self._copies, self._consumption = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]

    def bring(self, images: torch.Tensor) -> torch.Tensor:
        """The images on the device. They are copied while earlier work runs if they lie in pinned memory."""
        if images.is_cuda:
            return images.to(self.device)
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            images = images.to(self.device, non_blocking=True)
        current.wait_stream(self._copies)
        images.record_stream(current)  # or their memory would be given away when the copy is done
        return images

    @contextmanager
    def beside(self, activations: torch.Tensor) -> Iterator[None]:
        """What is done inside runs after everything so far, and beside what comes. Nothing that comes may write to
        the activations; their memory stays theirs until they are consumed."""
        self._consumption.wait_stream(torch.cuda.current_stream(self.device))
        activations.record_stream(self._consumption)
        with torch.cuda.stream(self._consumption):
            yield

    def join(self) -> None:
        """Work from here on comes after all consumption."""
        torch.cuda.current_stream(self.device).wait_stream(self._consumption)
