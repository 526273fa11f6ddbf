"""Sinks: what activations go into, layer by layer and batch by batch, with a record of each image.

    class Norms:                              # a sink of one's own
        def update(self, layer, activations, images): ...
        def merge(self, other): ...

    Walk([Pass(extractor, [Norms, partial(VDNASink, spec)])]).run(task)

A VDNA is one sink; per-image features are another. A sink is made for each lane of a task and merged afterwards, so
`merge` is exact: what one sink has seen and what another has seen are what one would have seen of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import torch

from distributions import VDNA, Spec
from pipeline.data.shards import Shard


class ImageRecord(NamedTuple):
    """What is known of an image beside its pixels.

    `number` counts the images of the task from 0, those that are skipped included; it orders what several lanes have
    seen. `key` is the image's name in its shard, `folder` the name of the folder it lies in, and `parts` are the other
    files of its sample that the walk was asked for.
    """

    number: int
    key: str
    shard: Shard
    folder: str
    parts: Mapping[str, bytes]

    @property
    def label(self) -> str | None:
        """Its class: the text of its part `cls`, else the name of its folder; else None."""
        if "cls" in self.parts:
            return self.parts["cls"].decode(errors="replace").strip()
        return self.folder or None


class Sink(Protocol):
    """What activations go into."""

    def update(self, layer: str, activations: torch.Tensor, images: Sequence[ImageRecord]) -> None:
        """Take a layer's activations of a batch: (images, positions, neurons), on the extractor's device. The memory is
        the network's: what is kept is copied."""

    def merge(self, other: Self) -> None:
        """Take what another sink of the same kind has seen."""


SinkFactory = Callable[[torch.device], Sink]
"""Makes an empty sink for activations on a device."""


class VDNASink:
    """Counts a VDNA, which has no ledger yet."""

    def __init__(self, spec: Spec, device: torch.device) -> None:
        self.vdna = VDNA(spec, device)

    def update(self, layer: str, activations: torch.Tensor, images: Sequence[ImageRecord]) -> None:
        self.vdna.update(layer, activations)

    def merge(self, other: Self) -> None:
        self.vdna.merge(other.vdna)
