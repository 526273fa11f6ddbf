"""Walking over the images of a task: each image is read and decoded once, and measured by one or several networks.

    walk = Walk([Pass(extractor, [partial(VDNASink, spec)])], batch_size=32, threads=8, decode_threads=2)
    ledger, ((sink,),) = walk.run(task)

Images are read and decoded in threads, ahead of the networks. The images of a task form batches in a fixed order,
across its shards. So a task gives the same bytes on every worker with the same batch size, threads and device. Two
tasks may run at once: while the networks measure one task, the images of the other are read.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import NamedTuple

import torch

from distributions import Ledger, ShardRecord
from extractors import Extractor, device_inputs
from pipeline.data.decode import BadImage, decoded
from pipeline.data.orientation import jpeg_orientation
from pipeline.data.readers import ShardReader
from pipeline.data.shards import Shard, Task
from pipeline.extraction.feed import Fed, Feed
from pipeline.extraction.lanes import Batch, Lanes
from pipeline.extraction.sinks import ImageRecord, Sink, SinkFactory
from pipeline.storage.objects import PATIENCE

GROUP_BYTES = 64 << 20
"""Bytes of JPEGs that the device decodes at once."""


class Prepared(NamedTuple):
    """An image as an input of the network, (3, size, size) float32, and whether it was transparent or rotated."""

    tensor: torch.Tensor
    transparent: bool
    rotated: bool


Input = Prepared | BadImage
"""A prepared image, or the reason why there is none."""


class File(NamedTuple):
    """An image file that the device may decode, with its EXIF orientation."""

    key: str
    data: bytes | BadImage
    orientation: int

    @classmethod
    def of(cls, key: str, data: bytes | BadImage) -> File:
        return cls(key, data, jpeg_orientation(data) if isinstance(data, bytes) else 1)


class Pass(NamedTuple):
    """A network and the factories of the sinks for its activations."""

    extractor: Extractor
    sinks: Sequence[SinkFactory]


class Walked(NamedTuple):
    """The result of a walk: the ledger of the task, and the sinks of each pass."""

    ledger: Ledger
    sinks: list[list[Sink]]


class Walk:
    """Runs tasks through the networks of `passes`. It keeps no state between tasks, except for counts of progress."""

    def __init__(
        self,
        passes: Sequence[Pass],
        batch_size: int = 32,
        threads: int = 1,
        decode_threads: int = 2,
        patience: float = PATIENCE,
        parts: Sequence[str] = (),
        on_image: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Raises `ValueError` if the networks differ in preprocessing or device.

        Args:
            passes: the networks and their sinks.
            batch_size: images of a batch.
            threads: threads of each network on a CPU.
            decode_threads: threads that decode images.
            patience: seconds without a byte after which reading is given up.
            parts: the other files of a sample that sinks get, by what follows the first dot of their names: `cls`.
            on_image: called with the number of images so far, at each image.
        """
        inputs = {(each.extractor.preprocess.id, each.extractor.device) for each in passes}
        if len(inputs) != 1:
            raise ValueError("a walk's networks take one input: give each preprocessing and device a walk of its own")
        self._preprocess, self._device = passes[0].extractor.preprocess, passes[0].extractor.device
        self._batch_size, self._decode_threads = batch_size, decode_threads
        self._patience, self._parts, self._on_image = patience, tuple(parts), on_image
        self._lanes = [Lanes(each.extractor, each.sinks, batch_size, threads) for each in passes]
        self._turn = threading.Lock()
        self._done: Counter[str] = Counter()

    def progress(self) -> tuple[int, int]:
        """The numbers of images counted and skipped since this walk was made, including tasks under way."""
        return self._done["counted"], self._done["skipped"]

    def run(self, task: Task) -> Walked:
        """Measure all images of a task. A passing fault raises an exception, and then nothing of the task counts."""
        readers = [ShardReader(shard, dict(task.storage), self._patience, self._parts) for shard in task.shards]
        ahead, threads = 2 * self._batch_size, self._decode_threads
        if self._preprocess.resize == "device":
            with Feed(readers, File.of, ahead, threads) as files, self._turn:
                return self._fold(self._decoded_on_device(files), readers)
        with Feed(readers, self._input, ahead, threads) as images, self._turn:
            return self._fold(images, readers)

    def _fold(self, images: Iterable[Fed[Input]], readers: list[ShardReader]) -> Walked:
        counted: Counter[int] = Counter()
        skipped: dict[int, Counter[str]] = {i: Counter() for i in range(len(readers))}
        noticed = {"transparent": 0, "rotated": 0}

        def usable() -> Iterator[tuple[torch.Tensor, ImageRecord]]:
            for number, (shard, sample, image) in enumerate(images):
                self._on_image(sum(self._done.values()) + 1)
                if isinstance(image, BadImage):
                    skipped[shard][image.reason] += 1
                    self._done["skipped"] += 1
                    continue
                counted[shard] += 1
                self._done["counted"] += 1
                noticed["transparent"] += image.transparent
                noticed["rotated"] += image.rotated
                yield image.tensor, ImageRecord(number, sample.key, readers[shard].shard, sample.folder, sample.parts)

        with ExitStack() as tasks:
            under_way = [tasks.enter_context(lanes.begin()) for lanes in self._lanes]
            pairs = usable()
            while group := list(islice(pairs, self._batch_size)):
                batch = Batch(*zip(*group, strict=True))
                for measuring in under_way:
                    measuring.put(batch)
            sinks = [measuring.merged() for measuring in under_way]
        ledger = Ledger(_record(reader, counted[i], skipped[i]) for i, reader in enumerate(readers))
        inside = {name: sum(getattr(reader, name) for reader in readers) for name in ("several", "archives")}
        ledger.noticed = noticed | inside
        return Walked(ledger, sinks)

    def _decoded_on_device(self, files: Iterable[Fed[File]]) -> Iterator[Fed[Input]]:
        """The images of a task. The device decodes JPEGs, a batch at a time; the CPU decodes all other files."""
        files = iter(files)
        while group := _next_group(files, self._batch_size):
            jpegs = {i: fed.value for i, fed in enumerate(group) if isinstance(fed.value.data, bytes)}
            keys, data, turns = zip(*jpegs.values(), strict=True) if jpegs else ((), (), ())
            tensors = dict(zip(jpegs, device_inputs(data, keys, self._preprocess, self._device, turns), strict=True))
            for i, (shard, sample, file) in enumerate(group):
                tensor = tensors.get(i)
                prepared = Prepared(tensor, False, file.orientation > 1) if tensor is not None else None
                yield Fed(shard, sample, prepared or self._input(file.key, file.data))

    def _input(self, key: str, data: bytes | BadImage) -> Input:
        if isinstance(data, BadImage):
            return data
        try:
            picture = decoded(data, **self._preprocess.decoding)
            return Prepared(self._preprocess(picture.pixels, key), picture.transparent, picture.orientation > 1)
        except BadImage as bad:
            return bad


def _next_group(files: Iterator[Fed[File]], max_files: int) -> list[Fed[File]]:
    """The next files, at most `max_files`. Without the last file they have at most `GROUP_BYTES`."""
    group, size = list[Fed[File]](), 0
    for fed in islice(files, max_files):
        group.append(fed)
        size += len(fed.value.data) if isinstance(fed.value.data, bytes) else 0
        if size > GROUP_BYTES:
            break
    return group


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
