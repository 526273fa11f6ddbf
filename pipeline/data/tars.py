"""The images of a tar archive, in order, and where it breaks.

    tar = TarStream(file)
    for name, data in tar:                    # data: bytes, or a BadImage where there are none to be had
        ...
    for name, data, parts in tar.samples():   # with the other parts of its sample that were asked for: {"cls": b"3"}
        ...
    tar.count, tar.damage, tar.lost_bytes     # once the end is reached

WebDataset's conventions. Headers are taken apart by Python's tarfile, one by one; its own reading of archives is
not used: it ends in silence at a corrupt header, a truncation or a missing end block, seeks for ever behind a
size that is a lie, and holds whatever an extended header claims in memory.
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
from pipeline.data.names import archive, hidden, is_image
from pipeline.data.packed import PIECE, Tap, Unpacked, packing
from pipeline.data.webdataset_names import split

BLOCK = 512
MAX_HEADER = 1 << 20
"""Bytes of an extended header, which holds a long name and attributes."""
MAX_PART = 16 << 20
"""Bytes of a part of a sample beside its image; a longer one is left out."""
MAX_TRAILING = 64 << 20
"""Unpacked zeros behind the end of a compressed archive: a thousand times fewer bytes can claim any number."""
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, *PAX)
LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
WITHOUT_BODY = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
)


class TarStream:
    """Iterate once; then `count` bytes were read, and `damage` says where the archive broke, if it did.

    `several` images share a sample with the one before; `archives` lie inside and are not read."""

    def __init__(self, file: Any, digest: Any = None, key: str = "", parts: Collection[str] = ()) -> None:
        """`file` is seekable. Its first bytes say whether the archive is compressed, and how: names often do not.
        `key` says which part of a sample is the image, `parts` which others `samples` gives beside it."""
        packed = packing(file)
        self._key, self._sample, self._parts = key, "", frozenset(parts)
        self.several = self.archives = 0
        self._links: dict[str, str] = {}
        self._others: dict[bytes, tuple[int, int]] = {}  # where files lie that are no images by their names, and sizes
        self._file, self._raw = file, Tap(file, digest)
        self._unpacked = Unpacked(self._raw, packed) if packed else None
        self._stream = self._unpacked or self._raw
        self._at = self._start = 0  # in the archive, unpacked: where reading is, and where the member began
        self._names: set[bytes] = set()  # hashes: a name is longer
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
        """The images, each with the other parts of its sample; a sample is of files that follow one another."""
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
        """Images, and where parts are asked for the other files in their places, None for those that are no such part;
        whether each is an image."""
        try:
            while (member := self._member()) is not None:
                end = self._at + member.size
                if _is_image(member, self._key):
                    before, self._sample = self._sample, split(member.name)[0]
                    self.several += before == self._sample
                    yield member.name, self._image(member, end), True
                elif member.type in LINKS and is_image(member.name, self._key) and not hidden(member.name):
                    self._links[member.name] = _target(member)
                elif _regular(member):
                    self._others[_hash(member.name)] = self._at, member.size
                    self.archives += archive(member.name) is not None and not hidden(member.name)
                    if self._parts and not hidden(member.name):
                        yield member.name, self._part(member, end), False
                self._skip(end - self._at)
                if self._at < end:
                    raise tarfile.ReadError("the archive breaks off")
                self._start = self._at  # what is behind the body is no part of what counts
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
        """What links of images lead to, if need be over others; those that lead elsewhere are none."""
        links = {_hash(name): target for name, target in self._links.items()}
        for name in self._links:
            place, met = _hash(name), set[bytes]()
            while place in links and place not in met:
                met.add(place)
                place = _hash(links[place])
            if place in self._names:
                yield name, BadImage(SAME_FILE)
            elif place in self._others:  # by its own name no image, and gone by
                self._names.add(place)
                yield name, self._again(*self._others[place])

    def _again(self, start: int, size: int) -> bytes | BadImage:
        """A file of the archive once more."""
        if self._unpacked:
            return BadImage("link in a compressed archive")
        if size > MAX_BYTES:
            return BadImage("too large")
        self._file.seek(start)
        data: bytes = self._file.read(size)
        return data

    def _member(self) -> tarfile.TarInfo | None:
        """The next file's header, with what extended headers say of it; None at the end-of-archive block."""
        self._start = self._at
        said: dict[str, str] = {}
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
            said.update(self._extended(member))
        if member.type == tarfile.GNUTYPE_SPARSE:
            said["GNU.sparse"] = ""
            more = block[482]
            while more:
                more = self._exactly(BLOCK)[504]
        member.name = said.get("GNU.sparse.name", said.get("path", member.name))
        member.size = _size(said.get("size", member.size)) if member.type not in WITHOUT_BODY else 0
        member.pax_headers = said
        return member

    def _extended(self, header: tarfile.TarInfo) -> dict[str, str]:
        """What an extended header says of the file behind it. One for all files says nothing that matters."""
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
        """A part of a sample that was asked for; None of another, and of one that is cut off."""
        if split(member.name)[1] not in self._parts or member.size > MAX_PART:
            return None
        data = self._read(member.size)
        return data if self._at == end else None

    def _refusal(self, member: tarfile.TarInfo) -> str:
        """Why an image is not even read, if so."""
        key = _hash(member.name)
        if key in self._names:  # unpacked, one file would take the other's place
            return "duplicate name"
        self._names.add(key)
        if any(field.startswith("GNU.sparse") for field in member.pax_headers):
            return "sparse in the archive"  # its holes can claim any size
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
        """Go on by so many bytes, or to the end of what is there, whatever was claimed."""
        while size > 0 and (data := self._read(min(size, PIECE))):
            size -= len(data)

    def _expect_nothing(self) -> None:
        """Behind the end-of-archive block there are zeros at most."""
        self._start = self._at
        while data := self._read(PIECE):
            if data.count(0) < len(data):
                raise tarfile.ReadError("there is data behind the end of the archive")
            if self._unpacked and self._at - self._start > MAX_TRAILING:
                raise tarfile.ReadError("there is no end of zeros behind the end of the archive")
        if self._unpacked and self._unpacked.fault:
            raise tarfile.ReadError(self._unpacked.fault)


def _is_image(member: tarfile.TarInfo, key: str) -> bool:
    """WebDataset's rule: regular files, but none whose name marks it as metadata or hidden."""
    return _regular(member) and is_image(member.name, key) and not hidden(member.name)


def _regular(member: tarfile.TarInfo) -> bool:
    # An unknown type is an ordinary file, says POSIX.
    return member.isreg() or member.type not in tarfile.SUPPORTED_TYPES


def _target(link: tarfile.TarInfo) -> str:
    """The name that a link leads to: of a hard link it is the archive's, of a symbolic one it is relative."""
    said = link.pax_headers.get("linkpath", link.linkname)
    return said if link.type == tarfile.LNKTYPE else posixpath.join(posixpath.dirname(link.name), said)


def _hash(name: str) -> bytes:
    return hashlib.blake2b(posixpath.normpath(name).encode(errors="surrogateescape"), digest_size=8).digest()


_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")


def _pax(data: bytes) -> dict[str, str]:
    """The records of a pax header, "LENGTH KEY=VALUE\n" each."""
    fields: dict[str, str] = {}
    at = 0
    while match := _RECORD.match(data, at):
        end = at + int(match[1])
        if not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            break
        fields[_text(match[2])] = _text(data[match.end() : end - 1])
        at = end
    if at < len(data):
        raise tarfile.ReadError("an extended header is corrupt")
    return fields


def _size(said: str | int) -> int:
    if isinstance(said, str):
        said = int(said) if re.fullmatch(r"[0-9]{1,20}", said) else -1
    if said < 0:
        raise tarfile.ReadError("a header is corrupt (no such size)")
    return said


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
