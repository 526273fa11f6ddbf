"""Reading ahead: what comes next is asked for while what came before is used.

    file = io.BufferedReader(Ranges(requests, size, 8 << 20))         # the ranges of one object
    for item, early in InOrder(items, begin, weigh):                  # many small objects
        data = settle(early, seconds) if early else fetch(item)

A request made early waits on its file system's own loop: it costs no thread, and giving it up leaves nothing
behind. It is a first try and no more. Whoever needs the answer and finds a fault asks again, with patience.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

AHEAD = 4
"""Ranges of an object under way behind the one that is waited for, at most."""
SMALLEST = 64 << 10
"""Bytes that a slow line is still asked for at once."""
FIRST_FILES, FILES = 4, 32
"""Small objects under way at once, at first and at most."""
FILES_BYTES = 64 << 20
"""Bytes of small objects that are under way or have arrived, beside the one that is used."""


def begin(fs: Any, action: Callable[[], Coroutine[Any, Any, T]]) -> Future[T] | None:
    """An action under way on the loop of an asynchronous file system; None where there is no loop to carry it."""
    if not fs.async_impl or fs.asynchronous:
        return None
    return asyncio.run_coroutine_threadsafe(action(), fs.loop)


def settle(early: Future[T], seconds: float) -> T:
    """The answer to a request under way, or its fault; `TimeoutError` if that takes so many seconds from now on."""
    try:
        return early.result(seconds)
    finally:
        early.cancel()  # of no effect once it is done


class Requests(Protocol):
    """How one object is asked for its bytes."""

    def begin(self, start: int, end: int) -> Future[bytes] | None:
        """A range under way, or None where nothing is under way before it is waited for."""

    def answer(self, start: int, end: int, early: Future[bytes] | None) -> bytes:
        """What one try gives of a range, from its start on. Raises `TimeoutError` if it stalls, or another fault."""

    def patiently(self, action: Callable[[], bytes]) -> bytes:
        """What an action returns that is tried again after faults."""


class _Range(NamedTuple):
    start: int
    end: int
    early: Future[bytes] | None


class Ranges(io.RawIOBase):
    """An object of `size` bytes, read by ranges of `most`. What arrived is kept: a fault costs the rest of one range.

    The ranges behind the one that is read are asked for early: one when reading begins at the start, twice as many each
    time that the reader has to wait, up to `AHEAD`; none right after a seek, none beyond the end. So `AHEAD + 1` ranges
    at most are in memory, and what was asked for in vain is not much more than what was read.
    """

    def __init__(self, requests: Requests, size: int, most: int) -> None:
        self._requests, self._size, self._most = requests, size, most
        self._position = self._read_to = 0
        self._held = memoryview(b"")  # arrived and not read
        self._ranges: deque[_Range] = deque()  # under way or arrived, in order, perhaps with gaps
        self._depth = min(1, AHEAD)  # how many may be under way behind the one that is waited for

    def begin(self) -> None:
        """Ask for the first range before it is read."""
        self._reach(self._most, 0)

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
            self._give_up()
            self._ranges.clear()
            self._held, self._read_to, self._depth = memoryview(b""), self._position, 0
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        if not self._held:
            self._held = memoryview(self._requests.patiently(lambda: self._some(wanted)))
        data, self._held = self._held[:wanted], self._held[wanted:]
        buffer[: len(data)] = data
        self._position += len(data)
        self._read_to = self._position
        return len(data)

    def close(self) -> None:
        self._give_up()
        super().close()

    def _some(self, wanted: int) -> bytes:
        """What one try gives from the position on: a range that was asked for early, or `wanted` bytes at most."""
        self._reach(wanted, self._depth)
        start, end, early = self._ranges.popleft()
        waits = early is None or not early.done()
        try:
            data = self._requests.answer(start, end, early)
        except TimeoutError:
            self._most = max((end - start) // 16, SMALLEST)  # a slow line is no stall: ask for less
            self._depth = 0
            self._give_up()
            raise
        if not 0 < len(data) <= end - start:
            raise OSError(f"{len(data)} bytes came for {end - start} asked for")
        if waits:
            self._depth = min(max(2 * self._depth, 1), AHEAD)
        return data

    def _reach(self, wanted: int, depth: int) -> None:
        """Have the range at the position under way, and so many more behind it."""
        start, ranges = self._position, self._ranges
        if not ranges or ranges[0].start > start:  # nothing is, or a fault left a gap before what is
            end = min(start + min(wanted, self._most), ranges[0].start if ranges else self._size)
            ranges.appendleft(_Range(start, end, self._requests.begin(start, end)))
        while len(ranges) <= depth and ranges[-1].early and (start := ranges[-1].end) < self._size:
            end = min(start + self._most, self._size)
            ranges.append(_Range(start, end, self._requests.begin(start, end)))

    def _give_up(self) -> None:
        """What has not arrived is wanted no more."""
        self._ranges = deque(r for r in self._ranges if r.early and not r.early.cancel())


def begin_reading(file: io.BufferedIOBase) -> None:
    """Ask for the first range of a file before it is read, if it is read by ranges."""
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, Ranges):
        file.raw.begin()


class InOrder(Generic[T]):
    """Items in order, each with the request that `begin` made for it, if any; those of the next ones are under way.

    `weigh` gives an item's bytes. A few requests are under way at first, twice as many each time that the reader has to
    wait, up to `FILES`; and `FILES_BYTES`, or one item, beside the item that is used. Closing gives them up.
    """

    def __init__(self, items: Iterable[T], begin: Callable[[T], Future[Any] | None], weigh: Callable[[T], int]) -> None:
        self._items, self._begin, self._weigh = iter(items), begin, weigh
        self._next = next(self._items, None)
        self._waiting: deque[tuple[T, Future[Any] | None]] = deque()
        self._bytes = 0
        self._most = FILES
        self._width = min(FIRST_FILES, FILES)

    def fill(self) -> None:
        """Begin as many requests as are allowed."""
        while (item := self._next) is not None and len(self._waiting) < self._width:
            size = self._weigh(item)
            if self._waiting and self._bytes + size > FILES_BYTES:
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
        self._bytes -= self._weigh(item)
        if early and not early.done():
            self._width = min(2 * self._width, self._most)
        return item, early

    def stalled(self) -> None:
        """A request took too long: perhaps there are too many for the line. What has not arrived is given up."""
        self._most = max(self._width // 4, 1)
        self._width = 1
        self._waiting = deque((item, None if early and early.cancel() else early) for item, early in self._waiting)

    def close(self) -> None:
        self.stalled()
        self._waiting.clear()
        self._next = None
