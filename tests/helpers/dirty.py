"""The dirty corpus: every kind of broken, odd or hostile input, with what the ledger must say of it.

    for case in cases():
        case.name, case.data                   # a file's name and bytes
        case.counted, case.skipped, case.damaged
    write(folder)                              # all of them, as files

Everything is made here, from fixed seeds, and small as a file, whatever it claims or unpacks to. The single images of
`tests.helpers.dirty_pictures` also go together into an archive of each kind.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.decode import MAX_BYTES
from tests.helpers.dirty_pictures import pictures, saved

CUT = {"cut off in the archive": 1}
GIB = 1 << 30


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes = field(repr=False)
    counted: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    damaged: bool = False


@cache
def cases() -> tuple[Case, ...]:
    """All archives, and the single images as one archive of each kind."""
    return (*_tars(), *_headers(), *_packed(), *_zips(), *_parquets(), *_together())


def write(folder: Path) -> None:
    """The archives, and the single images in a folder of their own."""
    for case in cases():
        (folder / case.name).write_bytes(case.data)
    (folder / "loose").mkdir()
    for name, data, _ in pictures():
        (folder / "loose" / name).write_bytes(data)


def reasons() -> tuple[int, dict[str, int]]:
    """How many of the single images count, and why the others do not."""
    counts = Counter(reason for _, _, reason in pictures())
    return counts.pop(""), dict(counts)


# -- tars --------------------------------------------------------------------------------------------------------

FILES = {f"{i:03d}.png": saved("PNG", seed=i) for i in range(5)}


def tar(files: Mapping[str, bytes] = FILES, **options: object) -> bytes:
    return entries([(member(name, len(data)), data) for name, data in files.items()], **options)


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def entries(members: list[tuple[tarfile.TarInfo, bytes]], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **{"format": tarfile.USTAR_FORMAT, **options}) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def starts(data: bytes) -> list[int]:
    """Where each member's header begins."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [info.offset for info in archive.getmembers()]


def _tars() -> Iterator[Case]:
    whole = tar()
    third, body = starts(whole)[3], bytearray(whole)
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        files = FILES if kind == tarfile.USTAR_FORMAT else {**FILES, f"{'long/' * 40}é.png": FILES["000.png"]}
        yield Case(f"whole_{kind}.tar", tar(files, format=kind), len(files))
    yield Case("cut_between_members.tar", whole[:third], 3, damaged=True)
    yield Case("cut_in_a_header.tar", whole[: third + 100], 3, damaged=True)
    yield Case("cut_in_a_body.tar", whole[: third + 600], 3, CUT, damaged=True)
    rest = whole.rstrip(b"\0")
    yield Case("without_end.tar", rest + bytes(-len(rest) % 512), 5, damaged=True)
    yield Case("without_padding.tar", rest, 5, damaged=True)
    body[third + 5] ^= 0xFF
    yield Case("corrupt_header.tar", bytes(body), 3, damaged=True)
    body = bytearray(whole)
    body[third + 600] ^= 0xFF  # in the compressed pixels: the picture's own checksum tells
    yield Case("corrupt_body.tar", bytes(body), 4, {"corrupt": 1})
    yield Case("empty.tar", tar({}))
    yield Case("zero_bytes.tar", b"", damaged=True)
    yield Case("no_tar.tar", b"<html>not found</html>" * 99, damaged=True)
    yield Case("two_in_one.tar", whole + whole, 5, damaged=True)
    yield Case("zeros_behind.tar", whole + bytes(50_000), 5)
    yield Case("names.tar", tar({"/abs/0.png": FILES["000.png"], "../../0.png": FILES["000.png"]}), 2)
    yield Case("no_utf8.tar", tar({"\udcff\udc80.png": FILES["000.png"]}, format=tarfile.GNU_FORMAT), 1)
    yield Case("not_counted.tar", tar(dict.fromkeys(["0.json", "._0.png", "__meta__/0.png"], b"{}")))
    links = [member("link.png", 0, tarfile.SYMTYPE, "/etc/passwd"), member("hard.png", 0, tarfile.LNKTYPE, "000.png")]
    devices = [member(f"{kind!r}.png", 0, kind) for kind in (tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)]
    one = [(member("000.png", len(FILES["000.png"])), FILES["000.png"])]
    data = entries([(info, b"") for info in (*links, *devices)] + one)
    yield Case("links_and_devices.tar", data, 1, {"same file": 1})
    twice = [(member(name, len(FILES["000.png"])), FILES["000.png"]) for name in ("0.png", "./0.png", "0.PNG", "0.png")]
    yield Case("twice.tar", entries(twice), 2, {"duplicate name": 2})
    yield Case("two_endings.tar", tar({"0.png": FILES["000.png"], "0.jpg": saved("JPEG")}), 2)


def raw(info: tarfile.TarInfo, data: bytes, claim: int | None = None) -> bytes:
    """A header that may claim another size than its data have, and the data."""
    info.size = len(data) if claim is None else claim
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def pax(**fields: object) -> bytes:
    records = b""
    for key, value in fields.items():
        text = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(text) + len(str(len(text) + 3))
        records += str(length).encode() + text
    return raw(member("pax", kind=tarfile.XHDTYPE), records)


def _headers() -> Iterator[Case]:
    """Headers that say more than is there, or say it without end."""
    whole, one = tar(), raw(member("0.png"), FILES["000.png"])
    for claim in (8 * GIB - 1, 1 << 62):
        yield Case(f"claims_{claim}.tar", one + raw(member("1.png"), b"x", claim) + whole, 1, CUT, damaged=True)
    yield Case("claims_less_than_nothing.tar", one + raw(member("1.png"), b"x", -512) + whole, 1, damaged=True)
    yield Case("says_less_than_nothing.tar", one + pax(size=-512) + one + whole, 1, damaged=True)
    long = tarfile.GNUTYPE_LONGNAME
    yield Case("long_long_name.tar", one + raw(member("x", kind=long), b"x", 8 * GIB - 1) + whole, 1, damaged=True)
    nested = raw(member("x", kind=long), b"2.png\0") * 2000
    yield Case("names_of_names.tar", one + nested + whole, 6)
    yield Case("digits.tar", one + raw(member("x", kind=tarfile.XHDTYPE), b"1" * (1 << 20)) + whole, 1, damaged=True)
    yield Case("not_ours.tar", raw(member("x", kind=tarfile.XGLTYPE), b"19 path=../../x.png\n") + whole, 5)
    sparse = bytearray(raw(member("1.png", kind=tarfile.GNUTYPE_SPARSE), b"x" * 512))
    sparse[386:410] = b"00000000000\0" + b"00000001000\0"
    sparse[483:495] = b"77777777777\0"  # 8 GiB of holes
    sparse[148:156] = b"%06o\0 " % (sum(sparse[:148]) + 8 * 32 + sum(sparse[156:512]))
    yield Case("sparse.tar", one + bytes(sparse) + whole, 6, {"sparse in the archive": 1})
    holes = pax(GNU__sparse__major=1, GNU__sparse__minor=0, GNU__sparse__name="1.png", GNU__sparse__realsize=8 * GIB)
    yield Case("sparse_pax.tar", one + holes + one + whole, 6, {"sparse in the archive": 1})


def _packed() -> Iterator[Case]:
    whole = tar()
    packed = gzip.compress(whole, mtime=0)
    yield Case("whole.tar.gz", packed, 5)
    yield Case("whole.tgz", gzip.compress(whole[:4096], mtime=0) + gzip.compress(whole[4096:], mtime=0), 5)
    yield Case("cut.tar.gz", gzip.compress(whole, 0, mtime=0)[: starts(whole)[3] + 600], 3, CUT, damaged=True)
    yield Case("no_gzip.tar.gz", whole, 5)
    yield Case("gzip.tar", packed, 5)
    corrupt = bytearray(packed)
    corrupt[-6] ^= 0xFF  # the checksum of what was unpacked
    yield Case("checksum.tar.gz", bytes(corrupt), 5, damaged=True)
    yield Case("more_behind.tar.gz", packed + b"more", 5, damaged=True)
    yield Case("endless.tar.gz", gzip.compress(whole + bytes(70 << 20), 1, mtime=0), 5, damaged=True)
    large = {"0.png": bytes(MAX_BYTES + 1), "1.png": FILES["001.png"]}
    yield Case("too_large.tar.gz", gzip.compress(tar(large), 1, mtime=0), 1, {"too large": 1})


# -- zips and Parquet ----------------------------------------------------------------------------------------------


def zipped(files: Mapping[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    """A zip with a field of its first entry in the central directory changed."""
    start = data.index(b"PK\1\2") + at
    return data[:start] + struct.pack(form, value) + data[start + struct.calcsize(form) :]


def _zips() -> Iterator[Case]:
    whole, bad = zipped(), {"corrupt in the archive": 1}
    yield Case("whole.zip", whole, 5)
    yield Case("cut.zip", whole[:-200], damaged=True)
    yield Case("zero_bytes.zip", b"", damaged=True)
    yield Case("names.zip", zipped({"/abs/0.png": FILES["000.png"], "../../0.png": FILES["000.png"]}), 2)
    yield Case("checksum.zip", patched(whole, 16, "<L", 1), 4, bad)
    yield Case("encrypted.zip", patched(whole, 8, "<H", 1), 4, {"encrypted in the archive": 1})
    yield Case("method.zip", patched(whole, 10, "<H", 99), 4, {"unsupported compression in the archive": 1})
    yield Case("bzip2.zip", zipped(method=zipfile.ZIP_BZIP2), 0, {"unsupported compression in the archive": 5})
    yield Case("claims.zip", patched(whole, 24, "<L", 0xFFFF_FFF0), 4, {"too large": 1})
    bomb = zipped({"0.png": bytes(300 << 20), "1.png": FILES["001.png"]})
    yield Case("claims_less.zip", patched(bomb, 24, "<L", 100), 1, bad)
    yield Case("elsewhere.zip", patched(whole, 42, "<L", 0x7FFF_FFFF), 4, bad)
    one, two = whole.index(b"PK\3\4"), whole.index(b"PK\3\4", 9)
    yield Case("overlapping.zip", patched(whole, 20, "<L", two - one), 4, bad)
    many = [("0.png", FILES["000.png"]), ("1.png", FILES["001.png"]), ("0.png", FILES["002.png"])]
    yield Case("twice.zip", _twice(many), 2, {"duplicate name": 1})


def _twice(files: list[tuple[str, bytes]]) -> bytes:
    """zipfile warns of a name that is there, so the second is written under another one of the same length."""
    names, renamed = set(), {}
    for name, data in files:
        renamed[f"{len(names)}#png" if name in names else name] = data
        names.add(name)
    return zipped(renamed, zipfile.ZIP_STORED).replace(b"2#png", b"0.png")


def _parquets() -> Iterator[Case]:
    rows = list(FILES.values())
    structs = [{"bytes": data, "path": "../x"} for data in rows]
    whole = parquet(pa.array(structs), row_group_size=2)
    yield Case("whole.parquet", whole, 5)
    yield Case("empty_rows.parquet", parquet(pa.array([rows[0], None, b""], pa.binary())), 1, EMPTY)
    yield Case("empty_structs.parquet", parquet(pa.array([structs[0], None, {"bytes": None}])), 1, {NO_ROW: 2})
    yield Case("texts.parquet", parquet(pa.array([{"bytes": "text", "path": "x"}])), damaged=True)
    yield Case("no_images.parquet", parquet(pa.array([1, 2])), damaged=True)
    yield Case("cut.parquet", whole[:-50], damaged=True)
    yield Case("zero_bytes.parquet", b"", damaged=True)


NO_ROW = "no image in the row"
EMPTY = {NO_ROW: 1, "empty file": 1}


def parquet(column: pa.Array, **options: int) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": column}), buffer, **options)
    return buffer.getvalue()


def _together() -> Iterator[Case]:
    files = {name: data for name, data, _ in pictures()}
    counted, skipped = reasons()
    yield Case("pictures.tar", tar(files), counted, skipped)
    yield Case("pictures.tar.gz", gzip.compress(tar(files), mtime=0), counted, skipped)
    yield Case("pictures.zip", zipped(files), counted, skipped)
    yield Case("pictures.parquet", parquet(pa.array(list(files.values()))), counted, skipped)
