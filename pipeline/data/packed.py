"""Decompressing streams while they are read: gzip, bz2, xz, Zstandard and LZ4.

kind = packing(file)                      # "gzip", …; "" if the file is not compressed
tap = Tap(file, digest)
unpacked = Unpacked(tap, kind)
unpacked.read(512), unpacked.fault
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow

PIECE = 1 << 20
XZ = b"\xfd7zXZ\0"
MAGIC = {
    rb"\x1f\x8b": "gzip",
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": "bz2",
    re.escape(XZ): "xz",
    rb"\x5d\0\0": "xz",  # the older .lzma
    rb"\x28\xb5\x2f\xfd": "zstd",
    rb"\x04\x22\x4d\x18": "lz4",
    rb"\x02\x21\x4c\x18": "the legacy format of lz4",
}
"""Patterns of the first bytes of compressed files, and their kinds."""
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
"""First bytes of a skippable frame of zstd and lz4. The frame's size follows."""
MAGIC_BYTES = 10
"""Number of bytes that the patterns need."""
MAX_XZ_MEMORY = 256 << 20


def packing(file: Any) -> str:
    """The kind of compression of a seekable file, by its first bytes, because its name is not reliable."""
    start, position = file.read(MAGIC_BYTES), 0
    for _ in range(8):
        if not SKIPPABLE.match(start):
            break
        position += 8 + int.from_bytes(start[4:8], "little")
        file.seek(position)
        start = file.read(MAGIC_BYTES)
    file.seek(0)
    default = "zstd" if position else ""
    return next((kind for magic, kind in MAGIC.items() if re.match(magic, start, re.DOTALL)), default)


class Tap:
    """A file that counts and hashes the bytes read from it, and keeps the exception that ended the reading."""

    def __init__(self, file: Any, digest: Any) -> None:
        self._file = file
        self._digest = digest
        self.count = 0
        self.fault: BaseException | None = None
        self.closed = False

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except BaseException as fault:
            self.fault = fault
            raise
        if self._digest is not None:
            self._digest.update(data)
        self.count += len(data)
        return data

    def close(self) -> None:
        """Do nothing. Arrow closes the files it reads, but this file belongs to its opener."""

    def drain(self) -> None:
        while self.read(PIECE):
            pass


class Unpacked:
    """The decompressed bytes of a stream. If the data is damaged, the stream ends there and `fault` says why."""

    def __init__(self, file: Tap, kind: str) -> None:
        self._file, self._read_part = file, _reader(file, kind)
        self.fault = ""

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0 and not self.fault:
            try:
                part = self._read_part(size)
            except (EOFError, OSError, zlib.error, lzma.LZMAError, MemoryError, pyarrow.ArrowException) as error:
                if self._file.fault is not None:  # a fault of the store, which may be passing
                    raise self._file.fault from None
                self.fault = str(error) or type(error).__name__
                break
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _reader(file: Tap, kind: str) -> Callable[[int], bytes]:
    """A function that returns at most the given number of decompressed bytes, and none at the end."""
    if kind == "gzip":
        return gzip.GzipFile(fileobj=file).read1  # type: ignore[call-overload, no-any-return]  # a Tap has all that reading needs
    if kind == "bz2":
        return _Streams(file, bz2.BZ2Decompressor).read
    if kind == "xz":
        return _Streams(file, partial(lzma.LZMADecompressor, memlimit=MAX_XZ_MEMORY)).read
    if kind not in ("zstd", "lz4"):
        return partial(_refuse, kind)
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), kind)
    return lambda size: bytes(stream.read(min(size, PIECE)))


def _refuse(kind: str, _: int) -> bytes:
    raise OSError(f"{kind} is not read; pack it anew")


class _Streams:
    """Concatenated streams of bz2 or xz, with any number of zero bytes between and after them."""

    def __init__(self, file: Tap, make: Callable[[], Any]) -> None:
        self._file, self._make, self._stream = file, make, make()

    def read(self, size: int) -> bytes:
        while True:
            data = b""
            if self._stream.eof:
                data = self._stream.unused_data.lstrip(b"\0")
                while not data:
                    if not (more := self._file.read(PIECE)):
                        return b""
                    data = more.lstrip(b"\0")
                self._stream = self._make()
            elif self._stream.needs_input:
                data = self._file.read(PIECE)
                if not data:
                    raise EOFError("the compressed data ends before its end-of-stream marker")
            if part := self._stream.decompress(data, size):
                return bytes(part)
