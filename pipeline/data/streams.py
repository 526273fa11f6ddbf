"""Reading a shard from start to end, and telling a passing fault from lasting damage.

    reader = ShardReader(shard)
    for key, data in reader:                  # data: bytes, or a BadImage where the archive lost them
        ...
    reader.sha256, reader.damage              # once the end is reached

A read that gives fewer bytes than the object has is a passing fault: it raises, and the task is tried
again. An archive whose bytes are all there but which breaks off is damaged for good: what is whole
before the break counts, and `damage` says where it broke. Python's tarfile ends without an error in
both cases, so the end-of-archive block and the number of bytes are checked here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet

from pipeline.data.decode import BadImage
from pipeline.data.sources import IMAGES, Shard

BLOCK = 512
Entry = tuple[str, bytes | BadImage]


class ShortRead(OSError):
    """The store gave another number of bytes than the object has; trying again may help."""


class ShardReader:
    """Iterate once over the images of a shard, in order; then `sha256`, `damage`, `lost_bytes` are final."""

    def __init__(self, shard: Shard, storage: dict[str, Any] | None = None) -> None:
        self.shard = shard
        self.storage = storage or {}
        self.damage = ""
        self.lost_bytes = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Digest of the bytes read: the object's for a tar, the images' in order for other kinds."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[Entry]:
        if self.shard.kind == "files":
            return self._files()
        return {"tar": self._tar, "zip": self._zip, "parquet": self._parquet}[self.shard.kind]()

    def _open(self) -> Any:
        return fsspec.open(self.shard.url, "rb", **self.storage).open()

    def _files(self) -> Iterator[Entry]:
        for url in self.shard.members:
            fs, path = fsspec.core.url_to_fs(url, **self.storage)
            try:
                data = fs.cat_file(path)
            except (FileNotFoundError, IsADirectoryError):
                yield url, BadImage("missing file")
                continue
            except PermissionError:
                yield url, BadImage("no permission")
                continue
            self._digest.update(data)
            yield url, data

    def _tar(self) -> Iterator[Entry]:
        with self._open() as file:
            raw = _Tap(file, self._digest)
            packed = self.shard.url.partition("?")[0].lower().endswith("gz")
            unpacked = _Unpacked(raw) if packed else None
            stream = _Tap(unpacked) if unpacked else raw
            broken_at, position, rest_blank = "", 0, True
            try:
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    for member in tar:
                        position = member.offset
                        if _is_image(member):
                            yield f"{self.shard.url}/{member.name}", _body(tar, member)
                        tar.members = []  # type: ignore[attr-defined]  # or memory grows with the archive
                    position = tar.offset
                    blank, rest_blank = stream.blank_from(position)
                    if not blank:
                        broken_at = "the archive breaks off or a header is corrupt"
            except tarfile.TarError as error:
                broken_at = str(error)
            rest_blank = stream.drain() and rest_blank
            raw.drain()
            if self.shard.size >= 0 and raw.count != self.shard.size:
                raise ShortRead(f"{self.shard.url}: read {raw.count} of {self.shard.size} bytes")
            if unpacked and unpacked.fault:
                broken_at = unpacked.fault
            elif not broken_at and not rest_blank:
                broken_at = "there is data behind the end of the archive"
            if broken_at:
                self.damage = f"{broken_at}, at byte {position}"
                self.lost_bytes = max(raw.count - position, 0) if not packed else 0

    def _zip(self) -> Iterator[Entry]:
        with self._open() as file:
            try:
                archive = zipfile.ZipFile(file)
            except zipfile.BadZipFile as error:
                self.damage, self.lost_bytes = str(error), max(self.shard.size, 0)
                return
            with archive:
                for name in self.shard.members:
                    try:
                        data = archive.read(name)
                    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
                        yield name, BadImage("corrupt in the archive")
                        continue
                    self._digest.update(data)
                    yield f"{self.shard.url}/{name}", data

    def _parquet(self) -> Iterator[Entry]:
        with self._open() as file:
            try:
                table = pyarrow.parquet.ParquetFile(file)
                column = _image_column(table.schema_arrow)
                for group in self.shard.members:
                    batches = table.iter_batches(64, row_groups=[int(group)], columns=[column])
                    for row, image in enumerate(i for batch in batches for i in batch.column(0).to_pylist()):
                        data = image["bytes"] if isinstance(image, dict) else image
                        if data is None:
                            yield f"{self.shard.url}/{group}/{row}", BadImage("no image in the row")
                            continue
                        self._digest.update(data)
                        yield f"{self.shard.url}/{group}/{row}", data
                if not self.shard.members:
                    raise pyarrow.ArrowInvalid("the file has no row groups")
            except (pyarrow.ArrowInvalid, OSError) as error:
                # Arrow reports corrupt data as a bare OSError; a store's passing faults are other classes.
                if not isinstance(error, pyarrow.ArrowInvalid) and (type(error) is not OSError or error.errno):
                    raise
                self.damage, self.lost_bytes = str(error).splitlines()[0], max(self.shard.size, 0)


class _Unpacked(io.RawIOBase):
    """A gzip stream that ends, with its `fault` noted, where the compressed data breaks: what came before is kept."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._gzip = gzip.GzipFile(fileobj=file)
        self.fault = ""

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        while size > 0 and not self.fault:
            try:
                part = self._gzip.read1(size)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self.fault = str(error)
                break
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class _Tap(io.RawIOBase):
    """Counts and hashes what flows through, and remembers the last blocks."""

    def __init__(self, file: Any, digest: Any = None) -> None:
        self._file = file
        self._digest = digest
        self.count = 0
        self._tail: deque[tuple[int, bytes]] = deque(maxlen=2)

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        if self._digest is not None:
            self._digest.update(data)
        if data:
            self._tail.append((self.count, data))
        self.count += len(data)
        return data

    def blank_from(self, position: int) -> tuple[bool, bool]:
        """Whether the block at `position`, where the tar reader stopped, is an end-of-archive block of
        zeros, and whether zeros alone follow it in what was read."""
        start = self._tail[0][0] if self._tail else 0
        rest = b"".join(data for _, data in self._tail)[max(position - start, 0) :]
        return position >= start and rest[:BLOCK] == bytes(BLOCK), not rest.strip(b"\0")

    def drain(self) -> bool:
        """Read to the end; whether nothing but zeros was left."""
        blank = True
        while data := self.read(1 << 20):
            blank = blank and data.count(0) == len(data)
        return blank


def _is_image(member: tarfile.TarInfo) -> bool:
    """WebDataset's rule: regular files, but none whose name marks it as metadata or hidden."""
    name = member.name.rpartition("/")[2]
    hidden = name.startswith(".") or re.match(r"__[^/]*__($|/)", member.name)
    return member.isreg() and not hidden and name.lower().endswith(IMAGES)


def _body(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | BadImage:
    file = tar.extractfile(member)
    assert file is not None  # a regular file has a body
    try:
        data = file.read()
    except tarfile.ReadError:
        data = b""
    return data if len(data) == member.size else BadImage("cut off in the archive")


def _image_column(schema: Any) -> str:
    """The Hugging Face layout, struct<bytes, path>, or a binary column; `image` and `jpg` before others."""
    fits = [
        field.name
        for field in schema
        if pyarrow.types.is_binary(field.type)
        or pyarrow.types.is_large_binary(field.type)
        or (pyarrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    preferred = [name for name in ("image", "img", "jpg", "png", "bytes") if name in fits]
    if not fits:
        raise pyarrow.ArrowInvalid(f"no column of image bytes among {', '.join(schema.names)}")
    return str((preferred or fits)[0])
