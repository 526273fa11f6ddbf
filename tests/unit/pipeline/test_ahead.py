"""Reading ahead: the same bytes whatever fails, as much under way as is allowed, and nothing left when reading ends."""

from __future__ import annotations

import asyncio
import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from fsspec.asyn import AsyncFileSystem

from pipeline.data import loose, readers
from pipeline.data.decode import BadImage
from pipeline.data.discovery import group_version
from pipeline.data.listing import Entry
from pipeline.data.readers import ShardReader, in_turn
from pipeline.data.shards import Shard
from pipeline.errors import SourceChangedError
from pipeline.storage import ahead, objects
from pipeline.storage.ahead import MAX_FILES_AHEAD, MAX_RANGES_AHEAD, Prefetch
from pipeline.storage.objects import StoreFault, open_object
from tests.helpers.samples import tar_bytes

BLOCK = 10_000


DATA = np.random.default_rng(0).bytes(20 * BLOCK + 77)


Range = tuple[int, int]


class Remote(AsyncFileSystem):
    """A store in memory. `fault` may spoil a request: it is given the path, the range and how often it was asked for,
    and raises, waits, or says how many bytes come."""

    protocol = "s3"
    cachable = False

    def __init__(self, **objects: bytes) -> None:
        super().__init__()
        self.objects = objects
        self.asked: list[tuple[str, Range]] = []
        self.described: Counter[str] = Counter()
        self.under_way = self.most = 0
        self.seconds = 0.002
        self.fault: Callable[[str, Range, int], Any] = lambda *_: None

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        span = (start or 0, len(self.objects[path]) if end is None else end)
        self.asked.append((path, span))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
            length = self.fault(path, span, self.asked.count((path, span)))
            if asyncio.iscoroutine(length):
                length = await length
            return self.objects[path][slice(*span)][:length]
        finally:
            self.under_way -= 1

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        self.described[path] += 1
        await asyncio.sleep(self.seconds)
        if path not in self.objects:
            raise FileNotFoundError(path)
        data = self.objects[path]
        return {"name": path, "size": len(data), "type": "file", "ETag": f"{hash(data)}"}

    def ranges(self, path: str = "x") -> list[Range]:
        return [span for name, span in self.asked if name == path]

    def is_idle(self) -> bool:
        """Whether nothing is under way, at once or in a moment: a request that is given up ends on the loop."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), self.loop).result()  # one given up may be about to begin
        return eventually(lambda: not asyncio.all_tasks(self.loop) and self.under_way == 0)


def eventually(condition: Callable[[], object], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(condition())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(objects, "FIRST_PAUSE", 1e-3)
    monkeypatch.setattr(objects, "BLOCK", BLOCK)
    monkeypatch.setattr(ahead, "MIN_RANGE_BYTES", 100)
    before = threading.active_count()
    yield
    assert threading.active_count() <= before + 1  # fsspec's own, of its first use


@pytest.fixture
def remote() -> Iterator[Remote]:
    store = Remote(x=DATA)
    yield store
    assert store.is_idle()


def opened(fs: Remote, patience: float = 5) -> io.BufferedIOBase:
    return open_object(fs, "x", {"size": len(DATA)}, patience)


async def hang() -> None:
    await asyncio.sleep(60)


class TestRanges:
    def test_each_byte_is_asked_for_once(self, remote: Remote) -> None:
        with opened(remote) as file:
            parts = [*iter(lambda: file.read(777), b"")]
        assert b"".join(parts) == DATA
        assert remote.ranges() == [(start, min(start + BLOCK, len(DATA))) for start in range(0, len(DATA), BLOCK)]

    def test_as_much_is_under_way_as_is_allowed(self, remote: Remote) -> None:
        """A reader who waits has more and more ahead of it, up to the limit, which bounds the memory as well."""
        remote.seconds = 0.02
        with opened(remote) as file:
            for read in range(15):
                file.read(BLOCK)
                assert len(remote.asked) <= read + 1 + min(2**read, MAX_RANGES_AHEAD)
        assert remote.most == MAX_RANGES_AHEAD + 1

    def test_who_need_not_wait_has_one_ahead(self, remote: Remote) -> None:
        remote.seconds = 0
        with opened(remote) as file:
            file.read(BLOCK)
            for read in range(2, 12):
                time.sleep(0.02)
                file.read(BLOCK)
                assert len(remote.asked) <= read + 2

    def test_a_seek_ends_it(self, remote: Remote) -> None:
        """What was under way is given up, and nothing is asked for in vain until reading goes on from there."""
        remote.seconds = 0.02
        with opened(remote) as file:
            file.read(3 * BLOCK)
            asked = len(remote.asked)
            file.seek(15 * BLOCK)
            assert file.read(10) == DATA[15 * BLOCK :][:10]
            assert remote.ranges()[asked:] == [(15 * BLOCK, 16 * BLOCK)]
            assert remote.under_way == 0
            assert file.read(2 * BLOCK) == DATA[15 * BLOCK + 10 :][: 2 * BLOCK]
            assert (17 * BLOCK, 18 * BLOCK) in remote.ranges()
        assert remote.is_idle()
        asked = len(remote.asked)
        with opened(remote) as file:
            file.seek(-100, io.SEEK_END)
            assert file.read() == DATA[-100:]
            assert remote.ranges()[asked:] == [(len(DATA) - 100, len(DATA))]

    @pytest.mark.parametrize("seed", range(30))
    def test_the_same_bytes_whatever_fails(self, remote: Remote, seed: int) -> None:
        """Errors, short and empty answers, in any order of answers: no byte that arrived is asked for again."""
        rng = random.Random(seed)
        arrived: list[Range] = []

        async def some(start: int, end: int, draw: float, length: int) -> int:
            await asyncio.sleep(0.004 * draw)
            if draw < 0.2:
                raise ConnectionError("reset")
            count = length if draw < 0.4 else end - start
            arrived.append((start, start + count))
            return count

        remote.seconds = 0
        remote.fault = lambda path, span, again: some(*span, rng.random(), rng.randrange(span[1] - span[0]))
        with opened(remote) as file:
            assert b"".join(iter(lambda: file.read(rng.choice((512, 7000, 35_000))), b"")) == DATA
        marks = np.zeros(len(DATA), int)
        for start, end in arrived:
            marks[start:end] += 1
        assert set(marks) == {1}

    @pytest.mark.parametrize("seed", range(10))
    def test_any_order_of_reads_and_seeks(self, remote: Remote, seed: int) -> None:
        rng, twin = random.Random(seed), io.BytesIO(DATA)
        remote.seconds = 0
        remote.fault = lambda path, span, again: None if rng.random() < 0.8 else rng.randrange(span[1] - span[0])
        with opened(remote) as file:
            for _ in range(60):
                if rng.random() < 0.4:
                    place = rng.choice((rng.randrange(len(DATA)), twin.tell(), 0, len(DATA) + 5))
                    assert file.seek(place) == twin.seek(place)
                size = rng.choice((1, 512, 9_999, 45_000))
                assert file.read(size) == twin.read(size)

    def test_a_stall_costs_the_rest_of_one_range(self, remote: Remote) -> None:
        """What arrived behind it is kept, and less is asked for at once."""
        remote.fault = lambda path, span, again: hang() if span == (2 * BLOCK, 3 * BLOCK) else None
        with opened(remote, patience=0.8) as file:
            assert file.read() == DATA
        assert remote.ranges().count((3 * BLOCK, 4 * BLOCK)) == 1
        again = remote.ranges()[remote.ranges().index((2 * BLOCK, 2 * BLOCK + BLOCK // 16)) :]
        assert all(end - start <= BLOCK // 16 for start, end in again)
        assert sum(end - start for start, end in remote.ranges()) <= len(DATA) + (MAX_RANGES_AHEAD + 1) * BLOCK

    def test_patience_is_a_time_without_a_byte(self, remote: Remote) -> None:
        remote.fault = lambda path, span, again: hang() if span[1] > 5 * BLOCK else None
        start = time.monotonic()
        with opened(remote, patience=0.6) as file:
            assert file.read(5 * BLOCK) == DATA[: 5 * BLOCK]
            with pytest.raises(StoreFault, match=r"given up after \d+ tries in 0.6 s: no answer in time"):
                file.read(1)
        assert time.monotonic() - start < 3

    def test_what_cannot_pass_is_raised_when_its_turn_comes(self, remote: Remote) -> None:
        def gone(path: str, span: Range, again: int) -> None:
            if span[0] >= 2 * BLOCK:
                raise PermissionError("no longer")

        remote.fault = gone
        with opened(remote) as file:
            assert file.read(2 * BLOCK) == DATA[: 2 * BLOCK]
            with pytest.raises(PermissionError, match="no longer"):
                file.read(1)

    @pytest.mark.parametrize("end", ["close", "error", "forgotten"])
    def test_nothing_is_left_of_a_reader_that_ends_early(self, remote: Remote, end: str) -> None:
        remote.fault = lambda path, span, again: hang() if span[0] >= 2 * BLOCK else None
        file = opened(remote)
        file.read(2 * BLOCK)
        assert eventually(lambda: remote.ranges()[2:])
        if end == "close":
            file.close()
        elif end == "error":
            with pytest.raises(KeyError), file:
                raise KeyError
        del file
        assert remote.is_idle()


class TestFiles:
    """Loose files, through the reader of their shard."""

    @pytest.fixture(autouse=True)
    def loose_files(self, monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
        monkeypatch.setattr(readers, "filesystem", lambda url, options: (remote, url))
        remote.objects = {f"{i:03d}.png": bytes([i]) * (100 + i) for i in range(100)}

    def shard(self, remote: Remote) -> Shard:
        names = tuple(sorted(remote.objects))
        infos = [asyncio.run_coroutine_threadsafe(remote._info(name), remote.loop).result() for name in names]
        remote.described.clear()
        entries = [Entry.of(name, info) for name, info in zip(names, infos, strict=True)]
        sizes = tuple(entry.size for entry in entries)
        return Shard("files", "folder", sum(sizes), group_version(entries), "part", names, sizes)

    def test_in_order_and_each_asked_for_once(self, remote: Remote) -> None:
        rng = random.Random(0)
        remote.fault = lambda *_: asyncio.sleep(rng.random() / 50)
        shard = self.shard(remote)
        assert list(ShardReader(shard)) == sorted(remote.objects.items())
        assert sorted(name for name, _ in remote.asked) == list(shard.members)
        assert remote.described == dict.fromkeys(shard.members, 1)
        assert MAX_FILES_AHEAD // 2 < remote.most <= MAX_FILES_AHEAD

    def test_bytes_are_bounded(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ahead, "MAX_FILES_BYTES", 1000)
        assert len(list(ShardReader(self.shard(remote)))) == 100
        assert remote.most <= 1000 // 100 + 1

    def test_faults_pass(self, remote: Remote) -> None:
        def fault(path: str, span: Range, again: int) -> Any:
            kind = int(path[:3]) % 5
            if again == 1 and kind == 0:
                raise ConnectionError("reset")
            return hang() if again == 1 and path == "007.png" else 50 if again == 1 and kind == 1 else None

        remote.fault = fault
        assert list(ShardReader(self.shard(remote), patience=2)) == sorted(remote.objects.items())

    def test_a_line_that_is_too_slow_for_many_has_fewer(self, remote: Remote) -> None:
        """Each request takes as long as there are others under way: none may be given up for ever."""
        remote.objects = dict(list(remote.objects.items())[:40])
        remote.fault = lambda *_: asyncio.sleep(0.02 * remote.under_way)
        assert len(list(ShardReader(self.shard(remote), patience=0.6))) == 40
        assert Counter(name for name, _ in remote.asked).most_common(1)[0][1] <= 3

    def test_a_file_that_has_changed(self, remote: Remote) -> None:
        shard = self.shard(remote)
        remote.objects["050.png"] = b"y" * 150
        with pytest.raises(SourceChangedError, match="files have changed"):
            list(ShardReader(shard))
        remote.objects["050.png"] = b"y"
        with pytest.raises(SourceChangedError, match=r"050.png: has changed"):
            list(ShardReader(shard))

    def test_a_file_that_changes_while_it_is_read(self, remote: Remote) -> None:
        """What the store says of it is asked for when its bytes are there, never before."""
        shard = self.shard(remote)

        def replaced(path: str, span: Range, again: int) -> None:
            if path == "050.png":
                remote.objects[path] = b"y" * 150

        remote.fault = replaced
        with pytest.raises(SourceChangedError, match="files have changed"):
            list(ShardReader(shard))

    def test_missing_and_too_large(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loose, "MAX_BYTES", 198)
        shard = self.shard(remote)
        sizes = (*shard.sizes[:5], -2, *shard.sizes[6:])
        reader = ShardReader(Shard("files", "folder", 1, "", "part", shard.members, sizes))

        def fault(path: str, span: Range, again: int) -> None:
            if path == "005.png":
                raise FileNotFoundError(path)

        remote.fault = fault
        contents = [data.reason if isinstance(data, BadImage) else data for _, data in reader]
        expected = [*remote.objects.values()]
        assert contents == [*expected[:5], "missing file", *expected[6:99], "too large"]
        assert "099.png" not in dict(remote.asked)
        with pytest.raises(FileNotFoundError):  # it was there when it was planned
            list(ShardReader(shard))

    def test_nothing_is_left_of_a_reader_that_ends_early(self, remote: Remote) -> None:
        remote.fault = lambda path, span, again: hang() if path > "002.png" else None
        with closing(iter(ShardReader(self.shard(remote)))) as files:
            assert next(files)[0] == "000.png"
            assert eventually(lambda: remote.under_way)
        assert remote.is_idle()

    def test_items_without_requests_pass_through(self) -> None:
        begun: list[int] = []

        def begin(item: int) -> Future[Any] | None:
            begun.append(item)
            return None

        assert list(Prefetch(range(9), begin, lambda _: 1)) == [(i, None) for i in range(9)]
        assert begun == [*range(9)]


class TestShards:
    @pytest.fixture
    def tars(self, monkeypatch: pytest.MonkeyPatch, remote: Remote) -> list[Shard]:
        monkeypatch.setattr(readers, "filesystem", lambda url, options: (remote, url))
        remote.objects = {
            f"{i}.tar": tar_bytes({f"{i}{j}.png": bytes([i, j]) * 9000 for j in range(5)}) for i in range(4)
        }
        return [Shard("tar", name, len(data), f"{hash(data)}") for name, data in remote.objects.items()]

    def test_the_next_is_begun_while_one_is_read(self, remote: Remote, tars: list[Shard]) -> None:
        with closing(in_turn([ShardReader(shard) for shard in tars])) as images:
            for read, (i, key, data) in enumerate(images):
                assert (i, key, data) == (read // 5, f"{i}.tar/{i}{read % 5}.png", bytes([i, read % 5]) * 9000)
                assert {name for name, _ in remote.asked} <= {f"{k}.tar" for k in range(i + 2)}
                if read % 5 == 4:
                    assert i == 3 or remote.ranges(f"{i + 1}.tar") == [(0, BLOCK)]
        assert max(Counter(remote.asked).values()) == 1

    def test_nothing_is_left_when_one_fails(self, remote: Remote, tars: list[Shard]) -> None:
        """Another version than was planned is noticed before its first image is given, though its bytes were there."""
        remote.objects["1.tar"] = remote.objects["0.tar"]
        readers, given = [ShardReader(shard) for shard in tars], []
        with pytest.raises(SourceChangedError, match=r"1.tar: has changed"):
            given += [i for i, _, _ in in_turn(readers)]
        assert not any(name == "3.tar" for name, _ in remote.asked)
        remote.fault = lambda *_: hang()
        readers[2].begin()
        assert eventually(lambda: remote.under_way)
        readers[2].close()
        assert remote.is_idle()

    def test_a_tar_that_is_replaced_while_it_is_read(self, remote: Remote, tars: list[Shard]) -> None:
        other = remote.objects["0.tar"].replace(b"\1", b"\7")

        def replaced(path: str, span: Range, again: int) -> None:
            if span[0] == 3 * BLOCK:
                remote.objects["1.tar"] = other

        remote.fault = replaced
        with pytest.raises(SourceChangedError, match=r"1.tar: has changed"):
            list(ShardReader(tars[1]))
