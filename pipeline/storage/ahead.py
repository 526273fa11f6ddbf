"""Requests made before their answers are needed, so that reading and waiting overlap.

    file = io.BufferedReader(RangeReader(requests, size, 8 << 20))    # one object, read by ranges
    for item, early in Prefetch(items, begin, size_of):               # many small objects
        data = wait_for(early, seconds) if early else fetch(item)

An early request runs on the event loop of its file system: it needs no thread, and cancelling it leaves nothing
behind. An early request is tried once. If it fails, the caller repeats it with `pipeline.storage.objects.retry`.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

MAX_RANGES_AHEAD = 4
"""Largest number of ranges of an object that are requested beyond the one that is waited for."""
MIN_RANGE_BYTES = 64 << 10
"""Smallest range that is requested from a slow store."""
FIRST_FILES_AHEAD, MAX_FILES_AHEAD = 4, 32
"""Number of small objects requested at once: at first, and at most."""
MAX_FILES_BYTES = 64 << 20
"""Bytes of small objects that are requested or have arrived, without the object in use."""


def begin(fs: Any, action: Callable[[], Coroutine[Any, Any, T]]) -> Future[T] | None:
    """Start a coroutine on the event loop of a file system. Returns None if the file system has no loop."""
    if not fs.async_impl or fs.asynchronous:
        return None
    return asyncio.run_coroutine_threadsafe(action(), fs.loop)


def wait_for(early: Future[T], seconds: float) -> T:
    """The result of an early request. Raises its error, or `TimeoutError` after `seconds` from now."""
    try:
        return early.result(seconds)
    finally:
        early.cancel()  # has no effect on a request that is done


class RangeRequests(Protocol):
    """How `RangeReader` requests the bytes of one object."""

    def begin(self, start: int, end: int) -> Future[bytes] | None:
        """Request a range early. Returns None if this store takes no early requests."""

    def answer(self, start: int, end: int, early: Future[bytes] | None) -> bytes:
        """Try once to get a range: its bytes, or the first of them. Raises `TimeoutError` if the request stalls."""

    def retry(self, action: Callable[[], bytes]) -> bytes:
        """The result of `action`, which is repeated after passing faults."""


class _Range(NamedTuple):
    start: int
    end: int
    early: Future[bytes] | None


class RangeReader(io.RawIOBase):
    """An object of `size` bytes as a file, read by ranges of at most `max_bytes`.

    Bytes that have arrived are kept: after a fault only the rest of one range is requested again.

    The ranges behind the current one are requested early. Reading from the start begins with one early range. Each time
    the reader has to wait, their number doubles, up to `MAX_RANGES_AHEAD`. After a seek there is none, and none lies
    beyond the end of the object. So at most `MAX_RANGES_AHEAD + 1` ranges are in memory, and little more is requested
    than is read.
    """

    def __init__(self, requests: RangeRequests, size: int, max_bytes: int) -> None:
        self._requests, self._size, self._max_bytes = requests, size, max_bytes
        self._position = self._read_to = 0
        self._buffered = memoryview(b"")  # arrived, not read yet
        self._ranges: deque[_Range] = deque()  # requested or arrived, in order, possibly with gaps
        self._depth = min(1, MAX_RANGES_AHEAD)  # how many ranges may be requested beyond the current one

    def begin(self) -> None:
        """Request the first range before it is read."""
        self._request(self._max_bytes, 0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readall(self) -> bytes:
        parts = []
        while part := self.read(self._size - self._position):
            parts.append(part)
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        if self._position != self._read_to:
            self._cancel()
            self._ranges.clear()
            self._buffered, self._read_to, self._depth = memoryview(b""), self._position, 0
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        if not self._buffered:
            self._buffered = memoryview(self._requests.retry(lambda: self._next_bytes(wanted)))
        data, self._buffered = self._buffered[:wanted], self._buffered[wanted:]
        buffer[: len(data)] = data
        self._position += len(data)
        self._read_to = self._position
        return len(data)

    def close(self) -> None:
        self._cancel()
        super().close()

    def _next_bytes(self, wanted: int) -> bytes:
        """Try once to get the bytes at the position: an early range, or at most `wanted` bytes."""
        self._request(wanted, self._depth)
        start, end, early = self._ranges.popleft()
        waits = early is None or not early.done()
        try:
            data = self._requests.answer(start, end, early)
        except TimeoutError:
            self._max_bytes = max((end - start) // 16, MIN_RANGE_BYTES)  # the store may only be slow: request less
            self._depth = 0
            self._cancel()
            raise
        if not 0 < len(data) <= end - start:
            raise OSError(f"{len(data)} bytes came for {end - start} asked for")
        if waits:
            self._depth = min(max(2 * self._depth, 1), MAX_RANGES_AHEAD)
        return data

    def _request(self, wanted: int, depth: int) -> None:
        """Request the range at the position and up to `depth` ranges behind it, unless they are requested already."""
        start, ranges = self._position, self._ranges
        if not ranges or ranges[0].start > start:  # none is requested, or a fault left a gap before the first one
            end = min(start + min(wanted, self._max_bytes), ranges[0].start if ranges else self._size)
            ranges.appendleft(_Range(start, end, self._requests.begin(start, end)))
        while len(ranges) <= depth and ranges[-1].early and (start := ranges[-1].end) < self._size:
            end = min(start + self._max_bytes, self._size)
            ranges.append(_Range(start, end, self._requests.begin(start, end)))

    def _cancel(self) -> None:
        """Cancel the requests that have not been answered."""
        self._ranges = deque(r for r in self._ranges if r.early and not r.early.cancel())


def begin_reading(file: io.BufferedIOBase) -> None:
    """Request the first range of a file before it is read. Does nothing for a file that is not read by ranges."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, RangeReader):
        file.raw.begin()


class Prefetch(Generic[T]):
    """Iterates over items in order, each with its early request, while those of the next items are under way.

    `begin` makes the request for an item, or returns None; `size_of` gives the item's bytes. At first
    `FIRST_FILES_AHEAD` requests are under way. Each time the reader has to wait, their number doubles, up to
    `MAX_FILES_AHEAD`. Their objects have at most `MAX_FILES_BYTES`, without the one in use; a larger object is
    requested alone. `close` cancels all requests.
    """

    def __init__(
        self, items: Iterable[T], begin: Callable[[T], Future[Any] | None], size_of: Callable[[T], int]
    ) -> None:
        self._items, self._begin, self._size_of = iter(items), begin, size_of
        self._next = next(self._items, None)
        self._waiting: deque[tuple[T, Future[Any] | None]] = deque()
        self._bytes = 0
        self._max_width = MAX_FILES_AHEAD
        self._width = min(FIRST_FILES_AHEAD, MAX_FILES_AHEAD)

    def fill(self) -> None:
        """Begin as many requests as are allowed."""
        while (item := self._next) is not None and len(self._waiting) < self._width:
            size = self._size_of(item)
            if self._waiting and self._bytes + size > MAX_FILES_BYTES:
                break
            self._waiting.append((item, self._begin(item)))
            self._bytes += size
            self._next = next(self._items, None)

    def __iter__(self) -> Iterator[tuple[T, Future[Any] | None]]:
        return self

    def __next__(self) -> tuple[T, Future[Any] | None]:
        self.fill()
        if not self._waiting:
            raise StopIteration
        item, early = self._waiting.popleft()
        self._bytes -= self._size_of(item)
        if early and not early.done():
            self._width = min(2 * self._width, self._max_width)
        return item, early

    def stalled(self) -> None:
        """Report that a request took too long. Unanswered requests are cancelled, and fewer run at once from now on."""
        self._max_width = max(self._width // 4, 1)
        self._width = 1
        self._waiting = deque((item, None if early and early.cancel() else early) for item, early in self._waiting)

    def close(self) -> None:
        self.stalled()
        self._waiting.clear()
        self._next = None
