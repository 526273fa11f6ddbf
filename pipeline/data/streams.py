"""Reading a shard from start to end, and telling a passing fault from lasting damage.

    reader = ShardReader(shard)
    for key, data in reader:                  # data: bytes, or a BadImage where the archive lost them
        ...
    reader.sha256, reader.damage              # once the end is reached

A read that gives fewer bytes than the object has is a passing fault: it raises, and the task is tried
again. An archive whose bytes are all there but which breaks off is damaged for good: what is whole
before the break counts, and `damage` says where it broke.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow
import pyarrow.parquet

from pipeline.data.decode import MAX_BYTES, BadImage
from pipeline.data.indexed import arrow_errors, by_name, image_column, of_cell, open_parquet, open_zip, unzipped
from pipeline.data.shards import ABSENT, UNKNOWN, Shard
from pipeline.data.sources import Entry, group_version
from pipeline.data.tars import TarStream
from pipeline.errors import UserError
from pipeline.objects import PATIENCE, call, filesystem, hide, is_local, open_object, patiently, signed, version

ROWS = 8
"""Rows of Parquet taken at once: a few bytes of dictionary can stand for large images in each."""
Item = tuple[str, bytes | BadImage]


class ShortRead(OSError):
    """The store gave another number of bytes than the object has; trying again may help."""


class Changed(UserError):
    """The object is not the one that was planned; trying again does not help, planning again does."""


class ShardReader:
    """Iterate once over the images of a shard, in order; then `sha256`, `damage`, `lost_bytes` are final."""

    def __init__(self, shard: Shard, storage: dict[str, Any] | None = None, patience: float = PATIENCE) -> None:
        self.shard = shard
        self.storage = storage or {}
        self.patience = patience
        self._name = shard.url.rpartition("/")[2]  # images are named alike wherever the shard lies
        self.damage = ""
        self.lost_bytes = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Digest of the bytes read: the object's for a tar, the images' in order for other kinds."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[Item]:
        return {"files": self._files, "tar": self._tar, "zip": self._zip, "parquet": self._parquet}[self.shard.kind]()

    @contextmanager
    def _opened(self) -> Iterator[io.BufferedIOBase]:
        """The archive, the same object from first to last byte that was planned, or `Changed`."""
        fs, path = filesystem(signed(self.shard.url, *self.shard.signing), self.storage)
        with open_object(fs, path, self._unchanged(fs, path), self.patience) as file:
            yield file
        self._unchanged(fs, path)

    def _unchanged(self, fs: Any, path: str) -> dict[str, Any]:
        info = self._described(fs, path)
        if self.shard.etag not in ("", version(info)):
            raise Changed(f"{self.shard.url}: has changed since it was planned: add plan to stages=[...]")
        return info

    def _files(self) -> Iterator[Item]:
        shard, found = self.shard, []
        for i, url in enumerate(shard.members):
            fs, path = filesystem(signed(url, *shard.signing[i : i + 1]), self.storage)
            size = shard.sizes[i] if shard.sizes else UNKNOWN
            data: bytes | BadImage
            if size > MAX_BYTES:
                data = BadImage("too large")
            else:
                patience = 0 if is_local(fs) else self.patience
                try:
                    data = patiently(partial(_whole, fs, path, size, self.patience), patience, path)
                except (FileNotFoundError, IsADirectoryError):
                    if size != ABSENT and shard.sizes:
                        raise  # it was there when it was planned: a store that is out of reach, perhaps
                    data = BadImage("missing file")
            if isinstance(data, bytes):
                self._digest.update(data)
            yield url.rpartition("/")[2], data
            missing = isinstance(data, BadImage) and data.reason == "missing file"
            found.append(Entry(url, ABSENT, "") if missing else Entry.of(url, self._described(fs, path)))
        if shard.etag not in ("", group_version(found)):
            raise Changed(f"{shard.url}: files have changed since they were planned: add plan to stages=[...]")

    def _described(self, fs: Any, path: str) -> dict[str, Any]:
        fs.invalidate_cache(path)
        info: dict[str, Any] = patiently(lambda: call(fs, "info", path, patience=self.patience), self.patience, path)
        return info

    def _tar(self) -> Iterator[Item]:
        with self._opened() as file:
            packed = self.shard.url.partition("?")[0].lower().endswith("gz")
            tar = TarStream(file, packed, self._digest)
            for name, data in tar:
                yield f"{self._name}/{name}", data
            if self.shard.size >= 0 and tar.count != self.shard.size:
                raise ShortRead(
                    f"{self.shard.url}: read {tar.count} of {self.shard.size} bytes; "
                    "if it has changed since it was planned, add plan to stages=[...]"
                )
            self.damage, self.lost_bytes = tar.damage, tar.lost_bytes

    def _zip(self) -> Iterator[Item]:
        with self._opened() as file:
            try:
                archive = open_zip(file)
            except zipfile.BadZipFile as error:
                self._broken(error)
                return
            self._expect_members()
            with archive:
                entries, bad = by_name(archive)
                for name in dict.fromkeys(self.shard.members):
                    if name not in entries:
                        raise Changed(f"{self.shard.url}: has changed since it was planned: add plan to stages=[...]")
                    first, *others = entries[name]
                    data = BadImage("corrupt in the archive") if first in bad else unzipped(archive, first)
                    if isinstance(data, bytes):
                        self._digest.update(data)
                    yield f"{self._name}/{name}", data
                    for _ in others:  # unpacked, one file would take the other's place
                        yield f"{self._name}/{name}", BadImage("duplicate name")

    def _parquet(self) -> Iterator[Item]:
        with self._opened() as file:
            try:
                table = open_parquet(file)
                self._expect_members()
                column = image_column(table.schema_arrow)
                for group in self.shard.members:
                    for row, data in enumerate(_cells(table, column, int(group))):
                        if isinstance(data, bytes):
                            self._digest.update(data)
                        yield f"{self._name}/{group}/{row}", data
            except pyarrow.ArrowInvalid as error:
                self._broken(error)

    def _expect_members(self) -> None:
        """An archive whose directory could not be read when it was planned, but now, must not pass for an empty one."""
        if not self.shard.members:
            raise Changed(f"{self.shard.url}: could not be read when it was planned: add plan to stages=[...]")

    def _broken(self, error: Exception) -> None:
        self.damage = (str(error).splitlines() or ["it cannot be read"])[0][:200]
        self.lost_bytes = max(self.shard.size, 0)


def _cells(table: pyarrow.parquet.ParquetFile, column: str, group: int) -> Iterator[bytes | BadImage]:
    with arrow_errors():
        for batch in table.iter_batches(ROWS, row_groups=[group], columns=[column]):
            yield from map(of_cell, batch.column(0))


def _whole(fs: Any, path: str, size: int, patience: float) -> bytes:
    """A loose file, of the size that was planned. Asked for as a range: s3fs would first ask for the size again."""
    span = {"start": 0, "end": size} if size > 0 else {}
    data: bytes = call(fs, "cat_file", path, patience=patience, size=max(size, 0), **span)
    if size >= 0 and len(data) != size:
        if call(fs, "info", path, patience=patience).get("size") != size:
            raise Changed(f"{hide(path)}: has changed since it was planned: add plan to stages=[...]")
        raise ShortRead(f"read {len(data)} of {size} bytes")
    return data
