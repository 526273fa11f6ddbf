"""Single image files of the dirty corpus: every format and mode, and everything that can be wrong with one.

for name, data, reason in pictures():
    ...                                    # reason is "" where the image counts
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

SHORT, BROKEN, LARGE = "truncated", "corrupt", "too large"
UNKNOWN = "not an image of a supported format"


@cache
def pictures() -> tuple[tuple[str, bytes, str], ...]:
    """Name, bytes, and the reason why the image does not count, or ""."""
    cases = (*_jpegs(), *_pngs(), *_others(), *_no_images(), *_sizes())
    assert len({name for name, *_ in cases}) == len(cases)
    return cases


def noise(height: int = 24, width: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(kind: str, mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise(seed=seed).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _jpegs() -> Iterator[tuple[str, bytes, str]]:
    whole, cmyk = saved("JPEG"), saved("JPEG", "CMYK")
    scan = whole.index(b"\xff\xda")
    yield "baseline.jpg", whole, ""
    yield "progressive.jpg", saved("JPEG", progressive=True), ""
    yield "grey.jpg", saved("JPEG", "L"), ""
    yield "cmyk.jpg", cmyk, ""
    adobe = cmyk.index(b"Adobe") + 11
    yield "ycck.jpg", cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :], ""
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "rotated.jpg", saved("JPEG", exif=exif), ""
    yield "broken_exif.jpg", saved("JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(50)), ""
    yield "more_behind.jpg", whole + whole, ""
    yield "no_end.jpg", whole[:-2], SHORT
    yield "cut.jpg", whole[: (scan + len(whole)) // 2], SHORT
    yield "cut_progressive.jpg", saved("JPEG", progressive=True)[:-400], SHORT
    yield "cut_header.jpg", whole[: scan - 10], BROKEN
    yield "only_the_start.jpg", whole[:2], UNKNOWN
    yield "junk_between_markers.jpg", whole[:2] + b"junk" + whole[2:], UNKNOWN
    yield "fill_bytes.jpg", whole[:2] + b"\xff" * 99 + whole[2:], ""
    yield "marker_too_long.jpg", whole[:2] + b"\xff\xe5\xff\xff" + whole[2:], BROKEN
    frame = whole.index(b"\xff\xc0")
    yield "no_such_frame.jpg", whole[: frame + 1] + b"\xc5" + whole[frame + 2 :], BROKEN
    yield "no_tables.jpg", whole[: whole.index(b"\xff\xdb")] + whole[frame:], BROKEN
    yield "nothing_wide.jpg", whole[: frame + 7] + b"\0\0" + whole[frame + 9 :], UNKNOWN
    yield "claims.jpg", whole[: frame + 5] + b"\xff\xdc\xff\xdc" + whole[frame + 9 :], LARGE
    yield "scans.jpg", _scans(), LARGE


def _scans() -> bytes:
    """A small file whose many scans each go over many pixels."""
    buffer = io.BytesIO()
    Image.new("L", (6000, 4000)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 500 + data[-2:]


def png(width: int, height: int, depth: int, colour: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG put together by hand: `data` are its rows, each with its filter's byte, `chunks` come before them."""
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)
    all_chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    parts = (struct.pack(">L", len(d)) + n + d + struct.pack(">L", zlib.crc32(n + d)) for n, d in all_chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _pngs() -> Iterator[tuple[str, bytes, str]]:
    whole = saved("PNG")
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield f"mode_{mode.replace(';', '')}.png", saved("PNG", mode), ""
    yield "palette_alpha.png", saved("PNG", "P", transparency=b"\0\x80\xff"), ""
    yield "transparent.png", saved("PNG", transparency=(1, 2, 3)), ""
    yield "16_bits.png", png(3, 2, 16, 2, (b"\0" + bytes(range(18))) * 2), ""
    yield "16_bits_alpha.png", png(3, 2, 16, 6, (b"\0" + bytes(range(24))) * 2), ""
    yield "2_bits.png", png(4, 2, 2, 0, b"\0\x1b\0\xe4"), ""
    yield "animated.png", saved("PNG", save_all=True, append_images=[noise(seed=i) for i in range(3)]), ""
    yield "cut.png", whole[: len(whole) // 2], SHORT
    yield "cut_header.png", whole[:20], BROKEN
    yield "header_checksum.png", whole[:30] + b"\0" + whole[31:], UNKNOWN
    yield "pixels_checksum.png", whole[:-14] + b"\0" + whole[-13:], ""  # they have one of their own inside
    yield "text_bomb.png", png(1, 1, 8, 0, b"\0\0", (b"zTXt", b"x\0\0" + zlib.compress(bytes(70 << 20)))), BROKEN
    yield "too_few_rows.png", png(9, 9, 8, 0, bytes(10)), ""
    yield "claims.png", png(20_000, 10_000, 1, 0, b""), LARGE
    yield "claims_more.png", png(2**31 - 1, 2**31 - 1, 8, 2, b""), LARGE
    yield "too_long.png", png(65_536, 1, 8, 0, bytes(65_537)), LARGE


def _others() -> Iterator[tuple[str, bytes, str]]:
    for kind in ("GIF", "WEBP", "BMP", "PPM", "TIFF", "AVIF", "JPEG2000"):
        ending = {"JPEG2000": "jp2", "TIFF": "tif"}.get(kind, kind.lower())
        yield f"whole.{ending}", saved(kind), ""
        data = saved(kind)
        reason = {"WEBP": BROKEN, "JPEG2000": BROKEN, "AVIF": UNKNOWN}.get(kind, SHORT)
        yield f"cut.{ending}", data[: len(data) // 2], reason
    yield "lossless.webp", saved("WEBP", "RGBA", lossless=True), ""
    frames = [noise(seed=i) for i in range(3)]
    for kind, ending in (("GIF", "gif"), ("WEBP", "webp"), ("TIFF", "tif")):
        yield f"frames.{ending}", saved(kind, save_all=True, append_images=frames), ""
    for method in ("tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        yield f"{method}.tif", saved("TIFF", compression=method), ""
    for mode in ("L", "P", "1", "CMYK", "RGBA", "I;16", "I"):
        yield f"mode_{mode.replace(';', '')}.tif", saved("TIFF", mode), ""
    yield "mode_F.tif", saved("TIFF", "F"), "floating-point pixels"
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "rotated.tif", saved("TIFF", exif=exif), ""
    yield "tiles.tif", _tiles(16, 16), ""
    yield "tiles_too_large.tif", _tiles(65_520, 32_752), LARGE
    yield "palette.bmp", saved("BMP", "P"), ""
    yield "grey.pgm", saved("PPM", "L"), ""
    for brand in (b"heic", b"mif1"):
        box = struct.pack(">L", 24) + b"ftyp" + brand + bytes(4) + brand + b"heic"
        yield f"{brand.decode()}.heic", box + struct.pack(">L", 300) + b"meta" + bytes(292), UNKNOWN


def _tiles(width: int, height: int) -> bytes:
    """A TIFF of 10 by 10 pixels with one tile of any size."""
    data = zlib.compress(bytes(256))
    sizes = ((256, 10), (257, 10), (258, 8), (259, 8), (262, 1), (277, 1))
    tags = (*sizes, (322, width), (323, height), (324, 8 + 2 + 10 * 12 + 4), (325, len(data)))
    fields = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + fields + bytes(4) + data


def _no_images() -> Iterator[tuple[str, bytes, str]]:
    yield "nothing.jpg", b"", "empty file"
    yield "one_byte.jpg", b"\xff", UNKNOWN
    yield "zeros.jpg", bytes(5000), UNKNOWN
    yield "page.jpg", b"<!doctype html><title>404</title>", UNKNOWN
    yield "vector.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNKNOWN
    yield "script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNKNOWN
    yield "pickle.jpg", b"cos\nsystem\n(S'touch /tmp/never'\ntR.", UNKNOWN
    yield "png_named.jpg", saved("PNG"), ""
    yield "JPEG_NAMED.PNG", saved("JPEG"), ""


def _sizes() -> Iterator[tuple[str, bytes, str]]:
    for height, width in ((1, 1), (1, 5000), (5000, 1), (2, 65_535), (3, 2)):
        for kind, ending in (("PNG", "png"), ("JPEG", "jpg")):
            if width > 65_500 and kind == "JPEG":
                continue
            buffer = io.BytesIO()
            noise(height, width).save(buffer, kind)
            yield f"{width}x{height}.{ending}", buffer.getvalue(), ""
