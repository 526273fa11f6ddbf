"""Reading the images of a shard from start to end.

    reader = ShardReader(shard)
    for key, data in reader:                  # data: bytes, or a BadImage if the archive has lost them
        ...
    reader.sha256, reader.damage              # after the end is reached

    for sample in ShardReader(shard, parts=["cls", "json"]).samples():
        sample.key, sample.data, sample.parts # the other parts of the sample: {"cls": b"3", "json": b"{…}"}

    for i, key, data in in_turn(readers):     # the images of several shards; the next one is requested early
        ...

There are two kinds of faults. If fewer bytes arrive than the object has, the fault is passing: an exception is raised,
and the task is repeated. If all bytes arrive but the archive is broken, the damage is permanent: the images before the
break count, and `damage` says where it is.
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
    entries_by_name,
    follow_link,
    is_image_entry,
    open_parquet,
    open_zip,
    parts_by_sample,
    unpacked_path,
    unzipped,
)
from pipeline.data.listing import Entry
from pipeline.data.loose import LooseFile, describe
from pipeline.data.names import sample, with_slashes
from pipeline.data.shards import ABSENT, UNKNOWN, Shard
from pipeline.data.tars import TarStream
from pipeline.errors import PLAN_AGAIN, ShortReadError, SourceChangedError
from pipeline.storage.ahead import Prefetch, begin_reading
from pipeline.storage.objects import PATIENCE, filesystem, is_local, is_web, open_object, version
from pipeline.storage.urls import signed


class Sample(NamedTuple):
    """An image file and the other parts of its sample.

    `key` is the file's name in its shard. `folder` is the name of the folder that the file lies in, or empty. `parts`
    holds the requested other files of the WebDataset sample, by what follows the first dot of their names. In a Parquet
    file they are other columns of the image's row, with texts in UTF-8.
    """

    key: str
    data: bytes | BadImage
    folder: str = ""
    parts: Mapping[str, bytes] = MappingProxyType({})


class ShardReader:
    """Iterates once over the images of a shard, in order.

    After the end, `damage` says where the archive is broken, and `lost_bytes` how many bytes follow. Of a tar,
    `several` counts the images that share a sample with the previous image, and `archives` the archives inside it,
    which are not read.

    `storage` has the fsspec options of the store, `patience` is in seconds, and `parts` are the other parts of each
    sample that `samples` returns.
    """

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
        self._name = shard.url.rpartition("/")[2]  # the keys of images do not depend on the shard's folder
        self.damage = ""
        self.lost_bytes = 0
        self.several = self.archives = 0
        self._digest = hashlib.sha256()
        self._begun: io.BufferedIOBase | None = None
        self._files_begun: Prefetch[LooseFile] | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes read: of the whole object for a tar, of the images in order for other kinds."""
        return self._digest.hexdigest()

    def begin(self) -> None:
        """Request the first bytes early, while another shard is read. Call `close` if the shard is not read then."""
        shard = self.shard
        if shard.kind == "files":
            self._files_begun = self._loose()
            self._files_begun.fill()
        elif shard.kind == "tar" and shard.size > 0:  # the other archives are read from their ends
            fs, path = self._locate()
            if not is_local(fs) and not is_web(fs):  # a website must first be asked whether it serves ranges
                self._begun = open_object(fs, path, {"size": shard.size}, self.patience)
                begin_reading(self._begun)

    def close(self) -> None:
        """Cancel early requests."""
        for begun in (self._begun, self._files_begun):
            if begun:
                begun.close()

    def __iter__(self) -> Generator[tuple[str, bytes | BadImage]]:
        with closing(self.samples()) as samples:
            for item in samples:
                yield item.key, item.data

    def samples(self) -> Generator[Sample]:
        """The images, each with the requested parts of its sample. Can be iterated once."""
        return {"files": self._files, "tar": self._tar, "zip": self._zip, "parquet": self._parquet}[self.shard.kind]()

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedIOBase]:
        """Open the archive. Raises `SourceChangedError` if it is not the planned object, before and after reading."""
        fs, path = self._locate()
        info = self._unchanged(fs, path)
        begun = self._begun if info.get("size") == self.shard.size else None
        with begun or open_object(fs, path, info, self.patience) as file:
            yield file
        self._unchanged(fs, path)

    def _locate(self) -> tuple[Any, str]:
        return filesystem(signed(self.shard.url, *self.shard.signing), self.storage)

    def _unchanged(self, fs: Any, path: str) -> dict[str, Any]:
        info = describe(fs, path, self.patience)
        if self.shard.etag not in ("", version(info)):
            raise SourceChangedError(f"{self.shard.url}: has changed since it was planned: {PLAN_AGAIN}")
        return info

    def _files(self) -> Generator[Sample]:
        entries = []
        with closing(self._files_begun or self._loose()) as files:
            for file, early in files:
                planned = bool(self.shard.sizes) and file.size != ABSENT
                data, info = file.load(early, files.stalled, self.patience, planned)
                if isinstance(data, bytes):
                    self._digest.update(data)
                # A signed URL opens only this object, not the other files of its sample.
                parts = {} if self.shard.signing else file.read_parts(self.parts, self.patience)
                yield Sample(file.url.rpartition("/")[2], data, _folder(file.url), parts)
                absent = Entry(file.url, min(file.size, ABSENT), "")
                entries.append(absent if info is None else Entry.of(file.url, info))
        if self.shard.etag not in ("", group_version(entries)):
            raise SourceChangedError(f"{self.shard.url}: files have changed since they were planned: {PLAN_AGAIN}")

    def _loose(self) -> Prefetch[LooseFile]:
        shard = self.shard

        def file(i: int) -> LooseFile:
            fs, path = filesystem(signed(shard.members[i], *shard.signing[i : i + 1]), self.storage)
            return LooseFile(shard.members[i], fs, path, shard.sizes[i] if shard.sizes else UNKNOWN)

        return Prefetch(map(file, range(len(shard.members))), LooseFile.begin, LooseFile.expected_bytes)

    def _tar(self) -> Generator[Sample]:
        with self._opened() as file:
            tar = TarStream(file, self._digest, self.shard.image, self.parts)
            for name, data, parts in tar.samples():
                yield Sample(f"{self._name}/{name}", data, _folder(name), parts)
            if self.shard.size >= 0 and tar.count != self.shard.size:
                raise ShortReadError(
                    f"{self.shard.url}: read {tar.count} of {self.shard.size} bytes; "
                    f"if it has changed since it was planned, {PLAN_AGAIN}"
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
                entries, bad = entries_by_name(archive)
                read, other_parts = set[zipfile.ZipInfo](), parts_by_sample(archive, self.parts)
                for name in dict.fromkeys(self.shard.members):
                    first, *duplicates = entries.get(unpacked_path(name), [None])
                    if first is None:
                        raise SourceChangedError(f"{self.shard.url}: has changed since it was planned: {PLAN_AGAIN}")
                    entry = follow_link(archive, entries, bad, first)
                    if entry is None:  # a link that leads to no entry
                        continue
                    if entry in read or (entry is not first and is_image_entry(entry.filename, self.shard.image)):
                        data: bytes | BadImage = BadImage(SAME_FILE)
                    else:
                        data = BadImage("corrupt in the archive") if entry in bad else unzipped(archive, entry)
                        read.add(entry)
                    if isinstance(data, bytes):
                        self._digest.update(data)
                    infos = other_parts.get(sample(with_slashes(name))[0], {})
                    contents = {part: unzipped(archive, info) for part, info in infos.items() if info not in bad}
                    parts = {part: content for part, content in contents.items() if isinstance(content, bytes)}
                    yield Sample(f"{self._name}/{name}", data, _folder(with_slashes(name)), parts)
                    for _ in duplicates:  # after unpacking, one file would replace the other
                        yield Sample(f"{self._name}/{name}", BadImage("duplicate name"), _folder(with_slashes(name)))

    def _parquet(self) -> Generator[Sample]:
        with self._opened() as file:
            try:
                table = open_parquet(file)
                self._expect_members()
                column = image_column(file, table, self.shard.image)
                for group in self.shard.members:
                    rows, row, parts = cells(table, self.parts, int(group)), -1, dict[str, bytes]()
                    for position, data in images(file, table, column, int(group)):
                        if isinstance(data, bytes):
                            self._digest.update(data)
                        while self.parts and row < int(position.partition("/")[0]):
                            row, parts = row + 1, next(rows)
                        yield Sample(f"{self._name}/{group}/{position}", data, "", parts)
            except pyarrow.ArrowInvalid as error:
                self._broken(error)

    def _expect_members(self) -> None:
        """Raise `SourceChangedError` if the archive's directory could not be read at planning, but can be read now.
        Otherwise the archive would count as empty."""
        if not self.shard.members:
            raise SourceChangedError(f"{self.shard.url}: could not be read when it was planned: {PLAN_AGAIN}")

    def _broken(self, error: Exception) -> None:
        self.damage = (str(error).splitlines() or ["it cannot be read"])[0][:200]
        self.lost_bytes = max(self.shard.size, 0)


def _folder(path: str) -> str:
    """The name of the folder that a file lies in."""
    return path.rpartition("/")[0].rpartition("/")[2]


def in_turn(readers: Sequence[ShardReader]) -> Generator[tuple[int, str, bytes | BadImage]]:
    """The images of several shards, each with the index of its shard. While a shard is read, the first bytes of the
    next one are requested."""
    with closing(samples_in_turn(readers)) as samples:
        for i, item in samples:
            yield i, item.key, item.data


def samples_in_turn(readers: Sequence[ShardReader]) -> Generator[tuple[int, Sample]]:
    """Like `in_turn`, with the other parts of the samples."""
    try:
        for i, reader in enumerate(readers):
            for following in readers[i + 1 : i + 2]:
                following.begin()
            with closing(reader.samples()) as samples:
                for item in samples:
                    yield i, item
    finally:
        for reader in readers:
            reader.close()
