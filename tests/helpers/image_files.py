"""Image files made byte by byte or by Pillow, and what their pixels are."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tests.helpers.dirty_pictures import png


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.astype(np.int64)[..., None], 3, 2)


HEIGHT, WIDTH = 8, 12


MEAN = (0.5, 0.5, 0.5)


def numbers(most: int, seed: int = 0, channels: int = 0, least: int = 0) -> np.ndarray:
    """Random ones, both ends of the range among them."""
    shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
    values = np.random.default_rng(seed).integers(least, most + 1, shape)
    values[0, 0], values[-1, -1] = least, most
    return values


def tiff(data: np.ndarray, bits: int = 0, order: Literal["<", ">"] = "<", packed: bool = False, **tags: Any) -> bytes:
    """A TIFF put together by hand. `tags` are t262=…; two 16-bit values at most in each."""
    array = data.astype(data.dtype.newbyteorder(order))
    samples = data.shape[2] if data.ndim == 3 else 1
    raw = array.tobytes()
    if tags.get("t284") == 2:
        raw = np.moveaxis(array, 2, 0).tobytes()
    if bits == 12:
        whole = "".join(f"{n:012b}" for n in data.ravel())
        raw = bytes(int(whole[i : i + 8], 2) for i in range(0, len(whole), 8))
    raw = zlib.compress(raw) if packed else raw
    kind = {"u": 1, "i": 2, "f": 3}[data.dtype.kind]
    planes = samples if tags.get("t284") == 2 else 1
    fields: dict[int, list[int]] = {
        256: [data.shape[1]],
        257: [data.shape[0]],
        258: [bits or 8 * data.dtype.itemsize] * samples,
        259: [8 if packed else 1],
        262: [2 if samples > 2 else 1],
        277: [samples],
        278: [data.shape[0]],
        339: [kind],
        **{int(tag[1:]): list(np.ravel(value)) for tag, value in tags.items()},
    }
    plane = len(raw) // planes
    fields[273] = [0] * planes
    fields[279] = [plane] * planes
    start = 8 + 2 + 12 * len(fields) + 4
    where: dict[int, int] = {}
    extra = b""
    for tag, values in fields.items():
        if len(values) * 4 > 4:
            where[tag] = start + len(extra)
            extra += bytes(4 * len(values))
    begin = start + len(extra)
    fields[273] = [begin + plane * i for i in range(planes)]
    entries = b""
    body = bytearray(extra)
    for tag, values in sorted(fields.items()):
        packed_values = struct.pack(f"{order}{len(values)}L", *values)
        if tag in where:
            body[where[tag] - start : where[tag] - start + len(packed_values)] = packed_values
            packed_values = struct.pack(f"{order}L", where[tag])
        entries += struct.pack(f"{order}HHL", tag, 4, len(values)) + packed_values
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}LH", 8, len(fields)) + entries + bytes(4) + bytes(body) + raw


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


ALPHA = np.array([0, 1, 2, 100, 127, 128, 129, 200, 253, 254, 255, 77], np.int64)[None].repeat(HEIGHT, 0)


Clear = tuple[str, bytes, np.ndarray, np.ndarray]
"""A name, a file, its colours without and its alpha, which are exact."""


def rows_of(array: np.ndarray, kind: str = "u1") -> bytes:
    return b"".join(b"\0" + row.astype(kind).tobytes() for row in array)


@cache
def clear() -> tuple[Clear, ...]:
    return (*_with_alpha(), *_with_key())


def _with_alpha() -> Iterator[Clear]:
    rgb, single = numbers(255, 3, 3), numbers(255, 4)
    rgba = np.dstack([rgb, ALPHA])
    picture = Image.fromarray(rgba.astype("u1"))
    two = np.dstack([single, ALPHA])
    yield "RGBA.png", saved(picture, "PNG"), rgb, ALPHA
    yield "LA.png", png(WIDTH, HEIGHT, 8, 4, rows_of(two)), grey(single), ALPHA
    yield "RGBA.webp", saved(picture, "WEBP", lossless=True, exact=True), rgb, ALPHA
    yield "RGBA.tif", tiff(rgba.astype("u1"), t338=2), rgb, ALPHA
    yield "RGBA big.tif", tiff(rgba.astype("u1"), order=">", packed=True, t338=2), rgb, ALPHA
    yield "RGBA apart.tif", tiff(rgba.astype("u1"), t284=2, t338=2), rgb, ALPHA
    yield "LA.tif", tiff(two.astype("u1"), t262=1, t338=2), grey(single), ALPHA
    wide = rgba * 256 + numbers(255, 5, 4)
    yield "RGBA of 16 bits.png", png(WIDTH, HEIGHT, 16, 6, rows_of(wide, ">u2")), rgb, ALPHA
    yield "RGBA of 16 bits.tif", tiff(wide.astype("u2"), t338=2, t339=1), rgb, ALPHA
    yield "RGBA of 16 bits apart.tif", tiff(wide.astype("u2"), t284=2, t338=2, t339=1), rgb, ALPHA
    yield "LA of 16 bits.png", png(WIDTH, HEIGHT, 16, 4, rows_of(wide[..., 2:], ">u2")), grey(rgb[..., 2]), ALPHA
    yield "RGBA.jp2", saved(picture, "JPEG2000", irreversible=False, mct=0), rgb, ALPHA
    index = (np.arange(WIDTH) % 12)[None].repeat(HEIGHT, 0)
    colours = numbers(255, 6, 3).reshape(-1, 3)[:12]
    chunks = ((b"PLTE", colours.astype("u1").tobytes()), (b"tRNS", ALPHA[0].astype("u1").tobytes()))
    yield "palette.png", png(WIDTH, HEIGHT, 8, 3, rows_of(index), *chunks), colours[index], ALPHA
    some = np.where(index == 0, 9, np.where(index == 1, 80, 255))
    chunks = (chunks[0], (b"tRNS", bytes([9, 80])))
    yield "palette, few.png", png(WIDTH, HEIGHT, 8, 3, rows_of(index), *chunks), colours[index], some
    chunks = (chunks[0], (b"tRNS", bytes([255, 255, 0, 255])))
    yield "palette, one.png", png(WIDTH, HEIGHT, 8, 3, rows_of(index), *chunks), colours[index], 255 * (index != 2)
    both = np.dstack([index, ALPHA]).astype("u1")
    table = np.zeros((3, 256), int)
    table[:, :12] = colours.T * 257
    yield "PA.tif", tiff(both, t262=3, t338=2, t320=table.ravel()), colours[index], ALPHA
    image = Image.fromarray(index.astype("u1")).copy()
    image.putpalette(colours.astype("u1").tobytes())
    yield "palette.gif", saved(image, "GIF", transparency=3), colours[index], 255 * (index != 3)
    greys = Image.fromarray(np.arange(WIDTH * HEIGHT, dtype="u1").reshape(HEIGHT, WIDTH))
    array = np.asarray(greys).astype(int)
    yield "grey.gif", saved(greys, "GIF", transparency=5), grey(array), 255 * (array != 5)


def _with_key() -> Iterator[Clear]:
    """PNGs with one colour that is transparent."""
    for bits in (1, 2, 4, 8):
        most = 2**bits - 1
        values = numbers(most, bits)
        packed = [
            sum(int(n) << (8 - bits - bits * i) for i, n in enumerate(part)) for part in values.reshape(-1, 8 // bits)
        ]
        rows = np.array(packed).reshape(HEIGHT, -1) if WIDTH * bits % 8 == 0 else _bits(values, bits)
        for key in {0, 1, most}:
            data = png(WIDTH, HEIGHT, bits, 0, rows_of(rows), (b"tRNS", struct.pack(">H", key)))
            yield f"{bits} bits, {key}.png", data, grey(values * 255 // most), 255 * (values != key)
    deep = numbers(65_535, 1)
    deep[1, :4] = 300, 301, 300 + 256, 44
    data = png(WIDTH, HEIGHT, 16, 0, rows_of(deep, ">u2"), (b"tRNS", struct.pack(">H", 300)))
    yield "16 bits, 300.png", data, grey(deep // 257), 255 * (deep != 300)
    colours = numbers(255, 2, 3)
    colours[2, 3:6] = 7, 8, 9
    data = png(WIDTH, HEIGHT, 8, 2, rows_of(colours), (b"tRNS", struct.pack(">HHH", 7, 8, 9)))
    yield "RGB.png", data, colours, 255 * (colours != (7, 8, 9)).any(2)
    wide = numbers(65_535, 2, 3)
    wide[2, 3], wide[2, 4], wide[2, 5] = (1000, 2000, 3000), (1001, 2000, 3000), (1000 & 255, 2000 & 255, 3000 & 255)
    data = png(WIDTH, HEIGHT, 16, 2, rows_of(wide, ">u2"), (b"tRNS", struct.pack(">HHH", 1000, 2000, 3000)))
    yield "RGB of 16 bits.png", data, wide >> 8, 255 * (wide != (1000, 2000, 3000)).any(2)


def _bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of numbers of some bits, each row of whole bytes."""
    rows = []
    for row in values:
        text = "".join(f"{n:0{bits}b}" for n in row)
        text += "0" * (-len(text) % 8)
        rows.append([int(text[i : i + 8], 2) for i in range(0, len(text), 8)])
    return np.array(rows)


PLACES: dict[int, Callable[[int, int, int, int], tuple[int, int]]] = {
    1: lambda r, c, h, w: (r, c),
    2: lambda r, c, h, w: (r, w - 1 - c),
    3: lambda r, c, h, w: (h - 1 - r, w - 1 - c),
    4: lambda r, c, h, w: (h - 1 - r, c),
    5: lambda r, c, h, w: (c, r),
    6: lambda r, c, h, w: (c, w - 1 - r),
    7: lambda r, c, h, w: (h - 1 - c, w - 1 - r),
    8: lambda r, c, h, w: (h - 1 - c, r),
}
"""Where the stored pixel (r, c) belongs in the upright picture of h by w, by the EXIF standard's words."""


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    rows, columns = stored.shape[:2]
    h, w = (rows, columns) if orientation < 5 else (columns, rows)
    picture = np.zeros((h, w, 3), stored.dtype)
    for r, c in product(range(rows), range(columns)):
        picture[PLACES[orientation](r, c, h, w)] = stored[r, c]
    return picture


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def mixed(folder: Path) -> Path:
    """Five pictures with transparency, one of them turned as well; two turned JPEGs; one of each that is as usual."""
    folder.mkdir()
    rgb = numbers(255, 3, 3)
    rgba = np.dstack([rgb, ALPHA]).astype("u1")
    opaque = np.dstack([rgb, np.full((HEIGHT, WIDTH), 255)]).astype("u1")
    (folder / "a.png").write_bytes(saved(Image.fromarray(rgba), "PNG"))
    (folder / "b.webp").write_bytes(saved(Image.fromarray(rgba), "WEBP"))
    (folder / "c.tif").write_bytes(tiff(rgba, t338=2))
    (folder / "d.gif").write_bytes(next(data for name, data, *_ in clear() if name == "palette.gif"))
    (folder / "e.png").write_bytes(saved(Image.fromarray(rgba), "PNG", exif=exif(6)))
    (folder / "f.png").write_bytes(saved(Image.fromarray(opaque), "PNG"))
    for i, turn in enumerate((6, 3, 1)):
        (folder / f"g{i}.jpg").write_bytes(saved(Image.fromarray(rgb.astype("u1")), "JPEG", exif=exif(turn)))
    (folder / "h.jpg").write_bytes(saved(Image.fromarray(rgb.astype("u1")), "JPEG"))
    (folder / "i.tif").write_bytes(saved(Image.fromarray(rgb.astype("u1")), "TIFF", exif=exif(6)))
    (folder / "j.png").write_bytes(saved(Image.fromarray(rgba), "PNG", exif=exif(6))[:-60])  # cut: it does not count
    return folder


NOTICED = {"transparent": 5, "rotated": 3, "several": 0, "archives": 0}
