"""Reading a shard from start to end, and telling a passing fault from lasting damage.

    reader = ShardReader(shard)
    for key, data in reader:                  # data: bytes, or a BadImage where the archive lost them
        ...
    reader.sha256, reader.damage              # once the end is reached

A read that gives fewer bytes than the object has is a passing fault: it raises, and the task is tried
again. An archive whose bytes are all there but which breaks off is damaged for good: what is whole
before the break counts, and `damage` says where it broke.

    for i, key, data in in_turn(readers):     # the images of several shards, each begun while the one before is read
        ...
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from itertools import chain, repeat
from typing import Any, NamedTuple

import pyarrow

from distributions.ledger import SAME_FILE
from pipeline.data.columns import image_column, images
from pipeline.data.decode import MAX_BYTES, BadImage
from pipeline.data.discovery import group_version
from pipeline.data.indexed import (
    by_name,
    in_zip,
    led_to,
    open_parquet,
    open_zip,
    unpacked,
    unzipped,
)
from pipeline.data.listing import Entry
from pipeline.data.shards import ABSENT, SAME, UNKNOWN, Shard
from pipeline.data.tars import TarStream
from pipeline.errors import UserError
from pipeline.storage.ahead import InOrder, begin, begin_reading, settle
from pipeline.storage.faults import NOWHERE
from pipeline.storage.objects import (
    PATIENCE,
    call,
    filesystem,
    hide,
    is_local,
    is_web,
    open_object,
    patiently,
    refuse_page,
    signed,
    stalled_after,
    version,
)

Item = tuple[str, bytes | BadImage]
Read = tuple[bytes, dict[str, Any]]
"""A loose file's bytes, and what its store said of it afterwards."""


class ShortRead(OSError):
    """The store gave another number of bytes than the object has; trying again may help."""


class Changed(UserError):
    """The object is not the one that was planned; trying again does not help, planning again does."""


class ShardReader:
    """Iterate once over the images of a shard, in order; then `sha256`, `damage`, `lost_bytes` are final.

    `several` images of a tar share a sample with the one before, and `archives` inside it are not read."""

    def __init__(self, shard: Shard, storage: dict[str, Any] | None = None, patience: float = PATIENCE) -> None:
        self.shard = shard
        self.storage = storage or {}
        self.patience = patience
        self._name = shard.url.rpartition("/")[2]  # images are named alike wherever the shard lies
        self.damage = ""
        self.lost_bytes = 0
        self.several = self.archives = 0
        self._digest = hashlib.sha256()
        self._begun: io.BufferedIOBase | None = None
        self._files_begun: InOrder[_File] | None = None

    @property
    def sha256(self) -> str:
        """Digest of the bytes read: the object's for a tar, the images' in order for other kinds."""
        return self._digest.hexdigest()

    def begin(self) -> None:
        """Ask for what is read first, while another shard is read. To be closed if it is not read after all."""
        shard = self.shard
        if shard.kind == "files":
            self._files_begun = self._loose()
            self._files_begun.fill()
        elif shard.kind == "tar" and shard.size > 0:  # others are read from their ends
            fs, path = self._place()
            if not is_local(fs) and not is_web(fs):  # a web server has to be asked first whether it gives ranges
                self._begun = open_object(fs, path, {"size": shard.size}, self.patience)
                begin_reading(self._begun)

    def close(self) -> None:
        """Give up what was begun and not read."""
        for begun in (self._begun, self._files_begun):
            if begun:
                begun.close()

    def __iter__(self) -> Generator[Item]:
        return {"files": self._files, "tar": self._tar, "zip": self._zip, "parquet": self._parquet}[self.shard.kind]()

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedIOBase]:
        """The archive, the same object from first to last byte that was planned, or `Changed`."""
        fs, path = self._place()
        info = self._unchanged(fs, path)
        begun = self._begun if info.get("size") == self.shard.size else None
        with begun or open_object(fs, path, info, self.patience) as file:
            yield file
        self._unchanged(fs, path)

    def _place(self) -> tuple[Any, str]:
        return filesystem(signed(self.shard.url, *self.shard.signing), self.storage)

    def _unchanged(self, fs: Any, path: str) -> dict[str, Any]:
        info = self._described(fs, path)
        if self.shard.etag not in ("", version(info)):
            raise Changed(f"{self.shard.url}: has changed since it was planned: add plan to stages=[...]")
        return info

    def _files(self) -> Generator[Item]:
        found = []
        with closing(self._files_begun or self._loose()) as files:
            for file, early in files:
                data, info = self._taken(file, early, files.stalled)
                if isinstance(data, bytes):
                    self._digest.update(data)
                yield file.url.rpartition("/")[2], data
                found.append(Entry(file.url, min(file.size, ABSENT), "") if info is None else Entry.of(file.url, info))
        if self.shard.etag not in ("", group_version(found)):
            raise Changed(f"{self.shard.url}: files have changed since they were planned: add plan to stages=[...]")

    def _loose(self) -> InOrder[_File]:
        shard = self.shard

        def file(i: int) -> _File:
            fs, path = filesystem(signed(shard.members[i], *shard.signing[i : i + 1]), self.storage)
            return _File(shard.members[i], fs, path, shard.sizes[i] if shard.sizes else UNKNOWN)

        return InOrder(map(file, range(len(shard.members))), _File.begin, _File.weigh)

    def _taken(
        self, file: _File, early: Future[Read] | None, stalled: Callable[[], None]
    ) -> tuple[bytes | BadImage, dict[str, Any] | None]:
        """A loose file, or the reason why there is none, and what the store says of it; None of what is not there."""
        if file.size == SAME:
            return BadImage(SAME_FILE), None
        if file.size > MAX_BYTES:
            return BadImage("too large"), self._described(file.fs, file.path)
        tries = chain([early], repeat(None))

        def read() -> Read:
            try:
                return file.read(next(tries), self.patience)
            except TimeoutError:
                stalled()
                raise

        try:
            return patiently(read, 0 if is_local(file.fs) else self.patience, file.path)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
            gone = gone or error.errno in NOWHERE
            if not gone or (file.size != ABSENT and self.shard.sizes):
                raise  # it was there when it was planned: a store that is out of reach, perhaps
            return BadImage("missing file"), None

    def _described(self, fs: Any, path: str) -> dict[str, Any]:
        fs.invalidate_cache(path)
        info: dict[str, Any] = patiently(lambda: call(fs, "info", path, patience=self.patience), self.patience, path)
        return info

    def _tar(self) -> Generator[Item]:
        with self._opened() as file:
            tar = TarStream(file, self._digest, self.shard.image)
            for name, data in tar:
                yield f"{self._name}/{name}", data
            if self.shard.size >= 0 and tar.count != self.shard.size:
                raise ShortRead(
                    f"{self.shard.url}: read {tar.count} of {self.shard.size} bytes; "
                    "if it has changed since it was planned, add plan to stages=[...]"
                )
            self.damage, self.lost_bytes = tar.damage, tar.lost_bytes
            self.several, self.archives = tar.several, tar.archives

    def _zip(self) -> Generator[Item]:
        with self._opened() as file:
            try:
                archive = open_zip(file)
            except zipfile.BadZipFile as error:
                self._broken(error)
                return
            self._expect_members()
            with archive:
                entries, bad = by_name(archive)
                linked: set[zipfile.ZipInfo] = set()
                for name in dict.fromkeys(self.shard.members):
                    first, *others = entries.get(unpacked(name), [None])
                    if first is None:
                        raise Changed(f"{self.shard.url}: has changed since it was planned: add plan to stages=[...]")
                    entry = led_to(archive, entries, bad, first)
                    if entry is None:  # a link that leads elsewhere
                        continue
                    if entry in linked or (entry is not first and in_zip(entry.filename, self.shard.image)):
                        data: bytes | BadImage = BadImage(SAME_FILE)
                    else:
                        data = BadImage("corrupt in the archive") if entry in bad else unzipped(archive, entry)
                        linked.add(entry)
                    if isinstance(data, bytes):
                        self._digest.update(data)
                    yield f"{self._name}/{name}", data
                    for _ in others:  # unpacked, one file would take the other's place
                        yield f"{self._name}/{name}", BadImage("duplicate name")

    def _parquet(self) -> Generator[Item]:
        with self._opened() as file:
            try:
                table = open_parquet(file)
                self._expect_members()
                column = image_column(file, table, self.shard.image)
                for group in self.shard.members:
                    for place, data in images(file, table, column, int(group)):
                        if isinstance(data, bytes):
                            self._digest.update(data)
                        yield f"{self._name}/{group}/{place}", data
            except pyarrow.ArrowInvalid as error:
                self._broken(error)

    def _expect_members(self) -> None:
        """An archive whose directory could not be read when it was planned, but now, must not pass for an empty one."""
        if not self.shard.members:
            raise Changed(f"{self.shard.url}: could not be read when it was planned: add plan to stages=[...]")

    def _broken(self, error: Exception) -> None:
        self.damage = (str(error).splitlines() or ["it cannot be read"])[0][:200]
        self.lost_bytes = max(self.shard.size, 0)


class _File(NamedTuple):
    """A loose file: its name, where it is, and the size that was planned."""

    url: str
    fs: Any
    path: str
    size: int

    def weigh(self) -> int:
        """Bytes that it may have."""
        return 0 if self.size == SAME else self.size if self.size >= 0 else MAX_BYTES

    @property
    def _span(self) -> dict[str, int]:
        """Asked for as a range: s3fs would first ask for the size again."""
        return {"start": 0, "end": self.size} if self.size > 0 else {}

    def begin(self) -> Future[Read] | None:
        """A first try, under way, at the file and then at what the store says of it."""

        async def read() -> Read:
            data = await self.fs._cat_file(self.path, **self._span)
            self.fs.invalidate_cache(self.path)
            return data, await self.fs._info(self.path)

        return begin(self.fs, read) if self.size <= MAX_BYTES and self.size != SAME else None

    def read(self, early: Future[Read] | None, patience: float) -> Read:
        """One try at the file, of the size that was planned, and then at what the store says of it."""
        early = early or self.begin()
        if early:
            data, info = settle(early, stalled_after(patience, max(self.size, 0)))
        else:
            data, info = self.fs.cat_file(self.path, **self._span), self.fs.info(self.path)
        if self.size >= 0 and len(data) != self.size:
            if info.get("size") != self.size:
                raise Changed(f"{hide(self.path)}: has changed since it was planned: add plan to stages=[...]")
            raise ShortRead(f"read {len(data)} of {self.size} bytes")
        return refuse_page(self.path, data), info


def in_turn(readers: Sequence[ShardReader]) -> Generator[tuple[int, str, bytes | BadImage]]:
    """The images of several shards, each with its shard's place; the next shard is begun while one is read."""
    try:
        for i, reader in enumerate(readers):
            for following in readers[i + 1 : i + 2]:
                following.begin()
            with closing(iter(reader)) as images:
                for key, data in images:
                    yield i, key, data
    finally:
        for reader in readers:
            reader.close()
