"""Sinks: objects that consume activations, layer by layer and batch by batch, with a record of each image.

    class Norms:                              # a custom sink
        def __init__(self, device): ...
        def update(self, layer, activations, images): ...
        def merge(self, other): ...

    Walk([Pass(extractor, [Norms, partial(VDNASink, spec)])]).run(task)

A VDNA is one kind of sink; features of single images could be another. Each lane of a task has its own sinks, which are
merged at the end. So `merge` must be exact: two merged sinks equal one sink that has seen the images of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import torch

from distributions import VDNA, Spec
from pipeline.data.shards import Shard


class ImageRecord(NamedTuple):
    """An image's metadata.

    `number` counts the images of the task from 0, skipped images included; it gives the order of images from several
    lanes. `key` is the image's name in its shard, and `folder` the name of the folder it lies in. `parts` holds the
    requested other files of its sample.
    """

    number: int
    key: str
    shard: Shard
    folder: str
    parts: Mapping[str, bytes]

    @property
    def label(self) -> str | None:
        """The image's class: the text of the part `cls`, otherwise the name of the folder; None without both."""
        if "cls" in self.parts:
            return self.parts["cls"].decode(errors="replace").strip()
        return self.folder or None


class Sink(Protocol):
    """An object that consumes activations."""

    def update(self, layer: str, activations: torch.Tensor, images: Sequence[ImageRecord]) -> None:
        """Consume a layer's activations for a batch: (images, positions, neurons), on the extractor's device.

        The network reuses the memory of `activations`: a sink that keeps them makes a copy. `images` has one record for
        each image.
        """

    def merge(self, other: Self) -> None:
        """Add the contents of another sink of the same kind."""


SinkFactory = Callable[[torch.device], Sink]
"""Makes an empty sink for activations on a device."""


class VDNASink:
    """A sink that makes a VDNA, without a ledger."""

    def __init__(self, spec: Spec, device: torch.device) -> None:
        self.vdna = VDNA(spec, device)

    def update(self, layer: str, activations: torch.Tensor, images: Sequence[ImageRecord]) -> None:
        self.vdna.update(layer, activations)

    def merge(self, other: Self) -> None:
        self.vdna.merge(other.vdna)
