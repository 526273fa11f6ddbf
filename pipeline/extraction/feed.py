"""Reading and decoding the images of a task in threads, ahead of the network.

    with Feed(readers, convert, ahead=64, threads=2) as feed:          # reading begins here
        for image in feed:                    # image.value is the result of `convert`
            ...

Images come in the order of the shards and of their contents, however long each takes to decode.
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
"""The index of a shard, a sample without its image's bytes, the future result of `convert`, and the number of bytes."""

AHEAD_BYTES = 512 << 20
"""Largest number of bytes of image files that are ahead of the network. A batch of the largest files would not fit into
memory."""
SECONDS = 0.1
"""Interval at which a thread that waits for space checks whether the feed has been closed."""


class Fed(NamedTuple, Generic[T]):
    """A converted image: the index of its shard in the task, its sample without the image's bytes, and the result of
    `convert`."""

    shard: int
    sample: Sample
    value: T


class Feed(Generic[T]):
    """Iterates once over the images of `readers`. Holds at most `ahead` images and `AHEAD_BYTES` of files.

    An error of reading or converting is raised at the place of its image. Use the feed as a context manager: leaving it
    ends the threads.
    """

    def __init__(
        self, readers: Sequence[ShardReader], convert: Callable[[str, bytes | BadImage], T], ahead: int, threads: int
    ) -> None:
        """`convert(key, data)` runs in `threads` threads."""
        self._readers, self._convert = readers, convert
        self._ahead: queue.Queue[_Ahead[T] | BaseException | None] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._held, self._freed = 0, threading.Condition()  # bytes that are read but not yet consumed
        # One torch thread for each decoding thread: otherwise each would start a pool of its own.
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
            if isinstance(item, BaseException):  # for instance SystemExit in the reading thread
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
        except BaseException as error:  # passed on to the consumer, which would otherwise wait for ever
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
