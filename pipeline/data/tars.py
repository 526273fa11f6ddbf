"""Reading the images of a tar archive in order, with a report of any damage.

    tar = TarStream(file)
    for name, data in tar:                    # data: bytes, or a BadImage if they cannot be read
        ...
    for name, data, parts in tar.samples():   # with the requested other parts of the sample: {"cls": b"3"}
        ...
    tar.count, tar.damage, tar.lost_bytes     # after the end is reached

Samples follow WebDataset's conventions. Python's `tarfile` parses single headers. Its `TarFile` is not used: it stops
silently at a corrupt header, a truncation or a missing end block, seeks without end behind a false size, and reads an
extended header of any size into memory.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import tarfile
from collections.abc import Collection, Iterator
from typing import Any

from distributions.ledger import SAME_FILE
from pipeline.data.decode import MAX_BYTES, BadImage
from pipeline.data.names import archive_kind, hidden, is_image
from pipeline.data.packed import PIECE, Tap, Unpacked, packing
from pipeline.data.webdataset_names import split

BLOCK = 512
MAX_HEADER = 1 << 20
"""Largest number of bytes in an extended header, which holds a long name and attributes."""
MAX_PART = 16 << 20
"""Largest number of bytes in a part of a sample other than the image. A longer part is left out."""
MAX_TRAILING = 64 << 20
"""Largest number of zeros behind the end of a compressed archive: a few compressed bytes can unpack to any number."""
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, *PAX)
LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
WITHOUT_BODY = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
)


class TarStream:
    """Iterates once over the images of a tar.

    After the end, `count` is the number of bytes read, `damage` says where the archive is broken, if it is, and
    `lost_bytes` how many bytes follow. `several` counts images that share a sample with the previous image, `archives`
    the archives inside, which are not read.
    """

    def __init__(self, file: Any, digest: Any = None, key: str = "", parts: Collection[str] = ()) -> None:
        """`file` is seekable; its first bytes say how it is compressed. `digest` is updated with the bytes read. `key`
        is the image key, and `parts` are the other parts of each sample that `samples` returns."""
        packed = packing(file)
        self._key, self._sample, self._parts = key, "", frozenset(parts)
        self.several = self.archives = 0
        self._links: dict[str, str] = {}
        self._others: dict[bytes, tuple[int, int]] = {}  # offset and size of files that are no images by name
        self._file, self._raw = file, Tap(file, digest)
        self._unpacked = Unpacked(self._raw, packed) if packed else None
        self._stream = self._unpacked or self._raw
        self._at = self._start = 0  # offsets in the unpacked archive: of the next byte, and of the current member
        self._names: set[bytes] = set()  # hashes, which are shorter than the names
        self.damage = ""
        self.lost_bytes = 0

    @property
    def count(self) -> int:
        """Bytes of the object that were read."""
        return self._raw.count

    def __iter__(self) -> Iterator[tuple[str, bytes | BadImage]]:
        for name, data, counts in self._files():
            if counts and data is not None:
                yield name, data

    def samples(self) -> Iterator[tuple[str, bytes | BadImage, dict[str, bytes]]]:
        """The images, each with the requested other parts of its sample. A sample consists of consecutive files."""
        current, images, parts = "", list[tuple[str, bytes | BadImage]](), dict[str, bytes]()
        for name, data, counts in self._files():
            key, part = split(name)
            if key != current:
                yield from ((*image, parts) for image in images)
                current, images, parts = key, [], {}
            if counts and data is not None:
                images.append((name, data))
            elif isinstance(data, bytes):
                parts.setdefault(part, data)
        yield from ((*image, parts) for image in images)

    def _files(self) -> Iterator[tuple[str, bytes | BadImage | None, bool]]:
        """The name and data of each file, and whether it is an image. Other files are included only if parts are
        requested; the data of a file that is no requested part are None."""
        try:
            while (member := self._member()) is not None:
                end = self._at + member.size
                if _is_image(member, self._key):
                    previous, self._sample = self._sample, split(member.name)[0]
                    self.several += previous == self._sample
                    yield member.name, self._image(member, end), True
                elif member.type in LINKS and is_image(member.name, self._key) and not hidden(member.name):
                    self._links[member.name] = _target(member)
                elif _regular(member):
                    self._others[_hash(member.name)] = self._at, member.size
                    self.archives += archive_kind(member.name) is not None and not hidden(member.name)
                    if self._parts and not hidden(member.name):
                        yield member.name, self._part(member, end), False
                self._skip(end - self._at)
                if self._at < end:
                    raise tarfile.ReadError("the archive breaks off")
                self._start = self._at  # damage in the padding behind the body does not affect this file
                self._exactly(-member.size % BLOCK)
            self._expect_nothing()
        except tarfile.TarError as error:
            self.damage = f"{(self._unpacked and self._unpacked.fault) or error}, at byte {self._start}"
        reached = self.count if self._unpacked else self._start
        self._raw.drain()
        if self.damage:
            self.lost_bytes = max(self.count - reached, 0)
        else:
            yield from ((name, data, True) for name, data in self._linked())

    def _linked(self) -> Iterator[tuple[str, bytes | BadImage]]:
        """The images that links lead to, directly or through other links. Links that lead to no file are left out."""
        links = {_hash(name): target for name, target in self._links.items()}
        for name in self._links:
            target, visited = _hash(name), set[bytes]()
            while target in links and target not in visited:
                visited.add(target)
                target = _hash(links[target])
            if target in self._names:
                yield name, BadImage(SAME_FILE)
            elif target in self._others:  # the target's own name is not that of an image, so it has been skipped
                self._names.add(target)
                yield name, self._read_again(*self._others[target])

    def _read_again(self, start: int, size: int) -> bytes | BadImage:
        """Read a file of the archive that has been passed."""
        if self._unpacked:
            return BadImage("link in a compressed archive")
        if size > MAX_BYTES:
            return BadImage("too large")
        self._file.seek(start)
        data: bytes = self._file.read(size)
        return data

    def _member(self) -> tarfile.TarInfo | None:
        """The header of the next file, with the fields of its extended headers; None at the end-of-archive block."""
        self._start = self._at
        fields: dict[str, str] = {}
        while True:
            block = self._read(BLOCK)
            if block == bytes(BLOCK) and self._at == self._start + BLOCK:
                return None
            if len(block) < BLOCK:
                raise tarfile.ReadError("the archive breaks off")
            try:
                member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise tarfile.ReadError(f"a header is corrupt ({error})") from None
            if member.type not in EXTENDED:
                break
            fields.update(self._extended(member))
        if member.type == tarfile.GNUTYPE_SPARSE:
            fields["GNU.sparse"] = ""
            more = block[482]
            while more:
                more = self._exactly(BLOCK)[504]
        member.name = fields.get("GNU.sparse.name", fields.get("path", member.name))
        member.size = _size(fields.get("size", member.size)) if member.type not in WITHOUT_BODY else 0
        member.pax_headers = fields
        return member

    def _extended(self, header: tarfile.TarInfo) -> dict[str, str]:
        """The fields of an extended header for the file behind it. Headers for all files have no field that matters."""
        if not 0 <= header.size <= MAX_HEADER:
            raise tarfile.ReadError(f"an extended header claims {header.size} bytes")
        data = self._exactly(header.size)
        self._exactly(-header.size % BLOCK)
        if header.type in PAX:
            return _pax(data)
        field = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}.get(header.type)
        return {field: _text(data.partition(b"\0")[0])} if field else {}

    def _image(self, member: tarfile.TarInfo, end: int) -> bytes | BadImage:
        reason = self._refusal(member)
        data = b"" if reason else self._read(member.size)
        self._skip(end - self._at)
        if self._at < end:
            return BadImage("cut off in the archive")
        return BadImage(reason) if reason else data

    def _part(self, member: tarfile.TarInfo, end: int) -> bytes | None:
        """The bytes of a requested part of a sample; None for other files, and for a part that is cut off."""
        if split(member.name)[1] not in self._parts or member.size > MAX_PART:
            return None
        data = self._read(member.size)
        return data if self._at == end else None

    def _refusal(self, member: tarfile.TarInfo) -> str:
        """The reason why an image is not read, or an empty text."""
        key = _hash(member.name)
        if key in self._names:  # after unpacking, one file would replace the other
            return "duplicate name"
        self._names.add(key)
        if any(field.startswith("GNU.sparse") for field in member.pax_headers):
            return "sparse in the archive"  # the holes of a sparse file can have any size
        return "too large" if member.size > MAX_BYTES else ""

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._at += len(data)
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise tarfile.ReadError("the archive breaks off")
        return data

    def _skip(self, size: int) -> None:
        """Skip `size` bytes, or all bytes that are left."""
        while size > 0 and (data := self._read(min(size, PIECE))):
            size -= len(data)

    def _expect_nothing(self) -> None:
        """Raise `tarfile.ReadError` if there is anything but zeros behind the end-of-archive block."""
        self._start = self._at
        while data := self._read(PIECE):
            if data.count(0) < len(data):
                raise tarfile.ReadError("there is data behind the end of the archive")
            if self._unpacked and self._at - self._start > MAX_TRAILING:
                raise tarfile.ReadError("there is no end of zeros behind the end of the archive")
        if self._unpacked and self._unpacked.fault:
            raise tarfile.ReadError(self._unpacked.fault)


def _is_image(member: tarfile.TarInfo, key: str) -> bool:
    """Whether a member is an image by WebDataset's rule: a regular file that is not hidden and no metadata."""
    return _regular(member) and is_image(member.name, key) and not hidden(member.name)


def _regular(member: tarfile.TarInfo) -> bool:
    # POSIX: a file of unknown type is treated as a regular file.
    return member.isreg() or member.type not in tarfile.SUPPORTED_TYPES


def _target(link: tarfile.TarInfo) -> str:
    """The name of a link's target in the archive. A symbolic link states it relative to the link's own folder."""
    target = link.pax_headers.get("linkpath", link.linkname)
    return target if link.type == tarfile.LNKTYPE else posixpath.join(posixpath.dirname(link.name), target)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(posixpath.normpath(name).encode(errors="surrogateescape"), digest_size=8).digest()


_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


def _pax(data: bytes) -> dict[str, str]:
    """The records of a pax header, "LENGTH KEY=VALUE\n" each."""
    fields: dict[str, str] = {}
    start = 0
    while match := _RECORD.match(data, start):
        end = start + int(match[1])
        if not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            break
        fields[_text(match[2])] = _text(data[match.end() : end - 1])
        start = end
    if start < len(data):
        raise tarfile.ReadError("an extended header is corrupt")
    return fields


def _size(field: str | int) -> int:
    """The size in a header's field."""
    size = field if isinstance(field, int) else int(field) if re.fullmatch(r"[0-9]{1,20}", field) else -1
    if size < 0:
        raise tarfile.ReadError("a header is corrupt (no such size)")
    return size


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
