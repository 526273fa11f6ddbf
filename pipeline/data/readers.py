"""Reading a shard from start to end, and telling a passing fault from lasting damage.

    reader = ShardReader(shard)
    for key, data in reader:                  # data: bytes, or a BadImage where the archive lost them
        ...
    reader.sha256, reader.damage              # once the end is reached

    for sample in ShardReader(shard, parts=["cls", "json"]).samples():
        sample.key, sample.data, sample.parts # with the other parts of its sample: {"cls": b"3", "json": b"{…}"}

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
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow

from distributions.ledger import SAME_FILE
from pipeline.data.columns import cells, image_column, images
from pipeline.data.decode import BadImage
from pipeline.data.discovery import group_version
from pipeline.data.indexed import (
    beside,
    by_name,
    in_zip,
    led_to,
    open_parquet,
    open_zip,
    unpacked,
    unzipped,
)
from pipeline.data.listing import Entry
from pipeline.data.loose import LooseFile, described
from pipeline.data.names import sample, turned
from pipeline.data.shards import ABSENT, UNKNOWN, Shard
from pipeline.data.tars import TarStream
from pipeline.errors import ShortReadError, SourceChangedError
from pipeline.storage.ahead import InOrder, begin_reading
from pipeline.storage.objects import PATIENCE, filesystem, is_local, is_web, open_object, version
from pipeline.storage.urls import signed


class Sample(NamedTuple):
    """An image file by its name in its shard, and the name of the folder it lies in, if it lies in one.

    `parts` are the other files of its WebDataset sample that were asked for, by what follows the first dot of their
    names; of a Parquet file they are other columns of its row, texts in UTF-8.
    """

    key: str
    data: bytes | BadImage
    folder: str = ""
    parts: Mapping[str, bytes] = MappingProxyType({})


class ShardReader:
    """Iterate once over the images of a shard, in order; then `sha256`, `damage`, `lost_bytes` are final.

    `several` images of a tar share a sample with the one before, and `archives` inside it are not read."""

    def __init__(
        self,
        shard: Shard,
        storage: dict[str, Any] | None = None,
        patience: float = PATIENCE,
        parts: Sequence[str] = (),
    ) -> None:
        self.shard = shard
        self.parts = tuple(parts)
        self.storage = storage or {}
        self.patience = patience
        self._name = shard.url.rpartition("/")[2]  # images are named alike wherever the shard lies
        self.damage = ""
        self.lost_bytes = 0
        self.several = self.archives = 0
        self._digest = hashlib.sha256()
        self._begun: io.BufferedIOBase | None = None
        self._files_begun: InOrder[LooseFile] | None = None

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

    def __iter__(self) -> Generator[tuple[str, bytes | BadImage]]:
        with closing(self.samples()) as samples:
            for found in samples:
                yield found.key, found.data

    def samples(self) -> Generator[Sample]:
        """The images, each with the parts of its sample that the reader was made for; iterate once."""
        return {"files": self._files, "tar": self._tar, "zip": self._zip, "parquet": self._parquet}[self.shard.kind]()

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedIOBase]:
        """The archive, the same object from first to last byte that was planned, or `SourceChangedError`."""
        fs, path = self._place()
        info = self._unchanged(fs, path)
        begun = self._begun if info.get("size") == self.shard.size else None
        with begun or open_object(fs, path, info, self.patience) as file:
            yield file
        self._unchanged(fs, path)

    def _place(self) -> tuple[Any, str]:
        return filesystem(signed(self.shard.url, *self.shard.signing), self.storage)

    def _unchanged(self, fs: Any, path: str) -> dict[str, Any]:
        info = described(fs, path, self.patience)
        if self.shard.etag not in ("", version(info)):
            raise SourceChangedError(f"{self.shard.url}: has changed since it was planned: add plan to stages=[...]")
        return info

    def _files(self) -> Generator[Sample]:
        found = []
        with closing(self._files_begun or self._loose()) as files:
            for file, early in files:
                planned = bool(self.shard.sizes) and file.size != ABSENT
                data, info = file.taken(early, files.stalled, self.patience, planned)
                if isinstance(data, bytes):
                    self._digest.update(data)
                # A signed URL opens one object, and none beside it.
                parts = {} if self.shard.signing else file.beside(self.parts, self.patience)
                yield Sample(file.url.rpartition("/")[2], data, _folder(file.url), parts)
                found.append(Entry(file.url, min(file.size, ABSENT), "") if info is None else Entry.of(file.url, info))
        if self.shard.etag not in ("", group_version(found)):
            raise SourceChangedError(
                f"{self.shard.url}: files have changed since they were planned: add plan to stages=[...]"
            )

    def _loose(self) -> InOrder[LooseFile]:
        shard = self.shard

        def file(i: int) -> LooseFile:
            fs, path = filesystem(signed(shard.members[i], *shard.signing[i : i + 1]), self.storage)
            return LooseFile(shard.members[i], fs, path, shard.sizes[i] if shard.sizes else UNKNOWN)

        return InOrder(map(file, range(len(shard.members))), LooseFile.begin, LooseFile.weigh)

    def _tar(self) -> Generator[Sample]:
        with self._opened() as file:
            tar = TarStream(file, self._digest, self.shard.image, self.parts)
            for name, data, parts in tar.samples():
                yield Sample(f"{self._name}/{name}", data, _folder(name), parts)
            if self.shard.size >= 0 and tar.count != self.shard.size:
                raise ShortReadError(
                    f"{self.shard.url}: read {tar.count} of {self.shard.size} bytes; "
                    "if it has changed since it was planned, add plan to stages=[...]"
                )
            self.damage, self.lost_bytes = tar.damage, tar.lost_bytes
            self.several, self.archives = tar.several, tar.archives

    def _zip(self) -> Generator[Sample]:
        with self._opened() as file:
            try:
                archive = open_zip(file)
            except zipfile.BadZipFile as error:
                self._broken(error)
                return
            self._expect_members()
            with archive:
                entries, bad = by_name(archive)
                linked, others_of = set[zipfile.ZipInfo](), beside(archive, self.parts)
                for name in dict.fromkeys(self.shard.members):
                    first, *others = entries.get(unpacked(name), [None])
                    if first is None:
                        raise SourceChangedError(
                            f"{self.shard.url}: has changed since it was planned: add plan to stages=[...]"
                        )
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
                    its = others_of.get(sample(turned(name))[0], {})
                    parts = {part: unzipped(archive, info) for part, info in its.items() if info not in bad}
                    found = {part: content for part, content in parts.items() if isinstance(content, bytes)}
                    yield Sample(f"{self._name}/{name}", data, _folder(turned(name)), found)
                    for _ in others:  # unpacked, one file would take the other's place
                        yield Sample(f"{self._name}/{name}", BadImage("duplicate name"), _folder(turned(name)))

    def _parquet(self) -> Generator[Sample]:
        with self._opened() as file:
            try:
                table = open_parquet(file)
                self._expect_members()
                column = image_column(file, table, self.shard.image)
                for group in self.shard.members:
                    rows, row, parts = cells(table, self.parts, int(group)), -1, dict[str, bytes]()
                    for place, data in images(file, table, column, int(group)):
                        if isinstance(data, bytes):
                            self._digest.update(data)
                        while self.parts and row < int(place.partition("/")[0]):
                            row, parts = row + 1, next(rows)
                        yield Sample(f"{self._name}/{group}/{place}", data, "", parts)
            except pyarrow.ArrowInvalid as error:
                self._broken(error)

    def _expect_members(self) -> None:
        """An archive whose directory could not be read when it was planned, but now, must not pass for an empty one."""
        if not self.shard.members:
            raise SourceChangedError(
                f"{self.shard.url}: could not be read when it was planned: add plan to stages=[...]"
            )

    def _broken(self, error: Exception) -> None:
        self.damage = (str(error).splitlines() or ["it cannot be read"])[0][:200]
        self.lost_bytes = max(self.shard.size, 0)


def _folder(path: str) -> str:
    """The name of the folder that a file lies in."""
    return path.rpartition("/")[0].rpartition("/")[2]


def in_turn(readers: Sequence[ShardReader]) -> Generator[tuple[int, str, bytes | BadImage]]:
    """The images of several shards, each with its shard's place; the next shard is begun while one is read."""
    with closing(samples_in_turn(readers)) as samples:
        for i, found in samples:
            yield i, found.key, found.data


def samples_in_turn(readers: Sequence[ShardReader]) -> Generator[tuple[int, Sample]]:
    """As `in_turn`, with the other parts of the samples."""
    try:
        for i, reader in enumerate(readers):
            for following in readers[i + 1 : i + 2]:
                following.begin()
            with closing(reader.samples()) as samples:
                for found in samples:
                    yield i, found
    finally:
        for reader in readers:
            reader.close()
