"""A task's images as inputs of the network, read and decoded ahead of it.

    with Feed(readers, convert, ahead=64, threads=2) as feed:          # reading begins here
        for image in feed:                    # image.value: what `convert` made; image.shard, image.sample: of what
            ...

Images come in order of the shards and of what is in them, whatever decodes faster.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Generic, NamedTuple, Self, TypeVar

import torch

from pipeline.data.decode import BadImage
from pipeline.data.readers import Sample, ShardReader, samples_in_turn

T = TypeVar("T")
_Ahead = tuple[int, Sample, Future[T], int]
"""A shard's place, a sample without its bytes, what will be made of these, and how many there were."""

AHEAD_BYTES = 512 << 20
"""Image files that may be ahead of the network: a batch of the largest would fill any memory."""
SECONDS = 0.1
"""How soon a thread that waits for room hears that nobody wants its images any more."""


class Fed(NamedTuple, Generic[T]):
    """An image, ready: the place of its shard in the task, its sample without the image's bytes, and what `convert`
    made of these."""

    shard: int
    sample: Sample
    value: T


class Feed(Generic[T]):
    """Iterate once. It holds at most `ahead` images and `AHEAD_BYTES` of files; an error comes in its turn."""

    def __init__(
        self, readers: Sequence[ShardReader], convert: Callable[[str, bytes | BadImage], T], ahead: int, threads: int
    ) -> None:
        self._readers, self._convert = readers, convert
        self._ahead: queue.Queue[_Ahead[T] | BaseException | None] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._held, self._freed = 0, threading.Condition()  # bytes read and not handed on yet
        # Decoding threads must not each start a team of their own inside torch.
        self._decoders = ThreadPoolExecutor(threads, "decode", torch.set_num_threads, (1,))
        self._reading = threading.Thread(target=self._read, name="read", daemon=True)
        self._reading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._reading.join()
        self._decoders.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Fed[T]]:
        while (item := self._ahead.get()) is not None:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, BaseException):  # of a thread that was ended, or of an event loop
                raise RuntimeError(f"reading was ended ({type(item).__name__}: {item})") from item
            shard, sample, value, size = item
            yield Fed(shard, sample, value.result())
            self._free(size)

    def _read(self) -> None:
        try:
            with closing(samples_in_turn(self._readers)) as samples:
                for shard, sample in samples:
                    future, size = self._submit(sample.key, sample.data)
                    if not self._put((shard, sample._replace(data=b""), future, size)):
                        return
        except BaseException as error:  # handed to the thread that consumes, which would wait for ever
            self._put(error)
        else:
            self._put(None)

    def _submit(self, key: str, data: bytes | BadImage) -> tuple[Future[T], int]:
        size = len(data) if isinstance(data, bytes) else 0
        with self._freed:
            while self._held and self._held + size > AHEAD_BYTES and not self._stop.is_set():
                self._freed.wait(SECONDS)
            self._held += size
        return self._decoders.submit(self._convert, key, data), size

    def _free(self, size: int) -> None:
        with self._freed:
            self._held -= size
            self._freed.notify()

    def _put(self, item: _Ahead[T] | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._ahead.put(item, timeout=SECONDS)
                return True
            except queue.Full:
                continue
        return False
