"""Pixels have the right values: numbers of any width, alpha and orientation, against computations of their own."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distributions import Ledger, ShardRecord
from extractors import ExtractorError, Preprocess, build, device_inputs
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.cli.report import noticed
from pipeline.config.networks import named_extractor
from pipeline.data.decode import BadImage, decode, decoded
from pipeline.data.discovery import find
from pipeline.data.orientation import jpeg_orientation
from pipeline.data.plan import network_spec
from pipeline.data.shards import Task
from pipeline.errors import DamagedError
from pipeline.extraction.worker import Job, Worker
from pipeline.measure.make import make_vdna
from tests.helpers.commands import TINY, command, context
from tests.helpers.dirty_pictures import png
from tests.helpers.runs import do, manifest

Case = tuple[str, bytes, np.ndarray | str]
"""A name, a file, and its levels or the reason why it is skipped."""
HEIGHT, WIDTH = 8, 12
MEAN = (0.5, 0.5, 0.5)
FLOATS, INTEGERS, UNKNOWN = (
    "floating-point pixels",
    "integer pixels of unknown range",
    "not an image of a supported format",
)


def numbers(most: int, seed: int = 0, channels: int = 0, least: int = 0) -> np.ndarray:
    """Random ones, both ends of the range among them."""
    shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
    found = np.random.default_rng(seed).integers(least, most + 1, shape)
    found[0, 0], found[-1, -1] = least, most
    return found


def tiff(data: np.ndarray, bits: int = 0, order: str = "<", packed: bool = False, **tags: Any) -> bytes:
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


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels.astype(np.int64)[..., None], 3, 2)


def scaled(found: np.ndarray, most: int) -> np.ndarray:
    """Levels as exact fractions rounded down, one by one."""
    return grey(np.array([[int(n) * 255 // most for n in row] for row in found]))


@cache
def levels() -> tuple[Case, ...]:
    return (*_integers(), *_floats(), *_portable(), *_channels())


def _integers() -> Iterator[Case]:
    for order, packed in product("<>", (False, True)):
        way = f"{'big' if order == '>' else 'little'}{' packed' * packed}"
        for kind in ("i2", "i4", *["u4"] * (order == "<")):
            narrow, wide = numbers(255).astype(kind), numbers(32_767, 1).astype(kind)
            yield f"{kind} of 8 bits {way}", tiff(narrow, order=order, packed=packed), grey(narrow)
            yield f"{kind} of 16 bits {way}", tiff(wide, order=order, packed=packed), scaled(wide, 65_535)
        for kind in ("i2", "i4"):
            below = numbers(255, least=-1).astype(kind)
            yield f"{kind} below zero {way}", tiff(below, order=order, packed=packed), INTEGERS
        whole = numbers(65_535).astype("u2")
        yield f"u2 {way}", tiff(whole, order=order, packed=packed), scaled(whole, 65_535)
        dark = numbers(255).astype("u2")
        yield f"dark u2 {way}", tiff(dark, order=order, packed=packed), np.zeros((HEIGHT, WIDTH, 3))
    beyond = numbers(65_536).astype("i4")
    yield "i4 beyond 16 bits", tiff(beyond), INTEGERS
    yield "u4 beyond 31 bits", tiff(numbers(2**32 - 1).astype("u4")), INTEGERS
    yield "i1 above zero", tiff(numbers(127).astype("i1")), grey(numbers(127))
    yield "i1 below zero", tiff(numbers(127, least=-128).astype("i1")), INTEGERS
    twelve = numbers(4095).astype("u2")
    yield "12 bits each", tiff(twelve, bits=12), scaled(twelve, 4095)
    yield "12 bits in 16", tiff(twelve), scaled(twelve, 65_535)  # nothing says so
    for tag, order in product((281, 341), "<>"):
        for bits in (8, 10, 12, 14, 16):
            some = numbers(2**bits - 1).astype("u2")
            stated = {f"t{tag}": 2**bits - 1}
            yield f"{bits} bits by {tag} {order}", tiff(some, order=order, **stated), scaled(some, 2**bits - 1)
    yield "a measured maximum", tiff(twelve, t281=4000), scaled(twelve, 65_535)
    yield "a maximum that is wrong", tiff(numbers(65_535).astype("u2"), t281=4095), scaled(numbers(65_535), 65_535)
    yield "i4 of 12 bits", tiff(twelve.astype("i4"), t341=4095), scaled(twelve, 4095)
    yield "dark i4 of 16 bits", tiff(numbers(200).astype("i4"), t341=65_535), np.zeros((HEIGHT, WIDTH, 3))
    whole = numbers(65_535).astype("u2")
    yield "u2, 0 is white", tiff(whole, t262=0), scaled(65_535 - whole.astype(int), 65_535)
    yield "u1, 0 is white", tiff(numbers(255).astype("u1"), t262=0), grey(255 - numbers(255))
    yield "i8", tiff(numbers(255).astype("i8")), UNKNOWN
    yield "all black i4", tiff(np.zeros((HEIGHT, WIDTH), "i4")), np.zeros((HEIGHT, WIDTH, 3))
    large = np.tile(numbers(255), (200, 100)).astype("i4")
    yield "i4 in strips", tiff(large), grey(large)
    late = np.array(large)
    late[-1, -1] = 70_000
    yield "i4 beyond 16 bits at the end", tiff(late), INTEGERS


def _floats() -> Iterator[Case]:
    for order, packed in product("<>", (False, True)):
        whole = numbers(255).astype("f4")
        yield f"float levels {order} {packed}", tiff(whole, order=order, packed=packed), grey(whole)
    yield "floats to 1", tiff((numbers(255) / 255).astype("f4")), FLOATS
    yield "floats to 255", tiff((numbers(255) * 0.99).astype("f4")), FLOATS
    yield "floats to 256", tiff(numbers(256).astype("f4")), FLOATS
    yield "floats below zero", tiff(numbers(255, least=-1).astype("f4")), FLOATS
    yield "float zeros and ones", tiff(numbers(1).astype("f4")), FLOATS
    for value in (np.nan, np.inf, -np.inf):
        odd = numbers(255).astype("f4")
        odd[3, 4] = value
        yield f"floats with {value}", tiff(odd), FLOATS
    upside_down = numbers(255)[::-1].astype("<f4").tobytes()
    yield "levels.pfm", b"Pf\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + upside_down, grey(numbers(255))
    yield "half.pfm", b"Pf\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + (numbers(255) / 255).astype("<f4").tobytes(), FLOATS


def _portable() -> Iterator[Case]:
    size = b"%d %d" % (WIDTH, HEIGHT)
    for most in (1, 15, 100, 255):
        some = numbers(most)
        expected = grey(np.rint(some / most * 255))
        yield f"{most}.pgm", b"P5\n" + size + b"\n%d\n" % most + some.astype("u1").tobytes(), expected
    for most in (256, 1023, 4095, 16_383, 65_535):
        some = numbers(most)
        expected = grey(np.rint(some / most * 65_535) // 257)
        yield f"{most}.pgm", b"P5\n" + size + b"\n%d\n" % most + some.astype(">u2").tobytes(), expected
        text = " ".join(map(str, some.ravel())).encode()
        yield f"{most} plain.pgm", b"P2\n" + size + b"\n%d\n" % most + text + b"\n", expected
        colours = numbers(most, channels=3)
        levels = np.rint(colours / most * 255)
        if most < 65_535:
            yield f"{most}.ppm", b"P6\n" + size + b"\n%d\n" % most + colours.astype(">u2").tobytes(), levels
    dark = numbers(200)
    yield "dark.pgm", b"P5\n" + size + b"\n65535\n" + dark.astype(">u2").tobytes(), np.zeros((HEIGHT, WIDTH, 3))


def _channels() -> Iterator[Case]:
    colours = numbers(65_535, channels=3).astype("u2")
    for order, packed, planar in product("<>", (False, True), (1, 2)):
        if packed and planar == 2:  # each channel would be packed by itself
            continue
        data = tiff(colours, order=order, packed=packed, t284=planar, t339=1)
        yield f"RGB of 16 bits {order} {packed} {planar}", data, colours >> 8
    four = numbers(65_535, channels=4).astype("u2")
    yield "CMYK of 16 bits apart", tiff(four, t262=5, t284=2), UNKNOWN
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    yield "16 bits.png", png(WIDTH, HEIGHT, 16, 2, rows), colours >> 8
    single = numbers(65_535).astype("u2")
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in single)
    yield "grey of 16 bits.png", png(WIDTH, HEIGHT, 16, 0, rows), scaled(single, 65_535)
    yield "sBIT says 12.png", png(WIDTH, HEIGHT, 16, 0, rows, (b"sBIT", b"\x0c")), scaled(single, 65_535)
    deep = Image.fromarray(single)
    yield "16 bits.jp2", saved(deep, "JPEG2000", irreversible=False), scaled(single, 65_535)
    ink = numbers(255, channels=4).astype("u1")
    light = np.rint((255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:].astype(float)) / 255)
    yield "CMYK.tif", tiff(ink, t262=5), light
    bits = numbers(1).astype(bool)
    yield "1 bit.png", saved(Image.fromarray(bits), "PNG"), grey(bits * 255)
    for kind in ("TIFF", "PPM"):
        yield f"1 bit.{kind}", saved(Image.fromarray(bits), kind), grey(bits * 255)
    palette = numbers(255, 1, 3).reshape(-1, 3).astype("u1")
    index = numbers(len(palette) - 1).astype("u1")
    image = Image.fromarray(index, "L").copy()
    image.putpalette(palette.tobytes())
    for kind in ("PNG", "TIFF", "BMP"):
        yield f"palette.{kind}", saved(image, kind), palette[index]


@pytest.mark.parametrize(("name", "data", "expected"), levels(), ids=[name for name, *_ in levels()])
def test_numbers_become_levels(name: str, data: bytes, expected: np.ndarray | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(BadImage) as found:
            decode(data)
        assert found.value.reason == expected
        return
    np.testing.assert_array_equal(decode(data), expected)
    assert not decoded(data).transparent


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
        found = numbers(most, bits)
        packed = [
            sum(int(n) << (8 - bits - bits * i) for i, n in enumerate(part)) for part in found.reshape(-1, 8 // bits)
        ]
        rows = np.array(packed).reshape(HEIGHT, -1) if WIDTH * bits % 8 == 0 else _bits(found, bits)
        for key in {0, 1, most}:
            data = png(WIDTH, HEIGHT, bits, 0, rows_of(rows), (b"tRNS", struct.pack(">H", key)))
            yield f"{bits} bits, {key}.png", data, grey(found * 255 // most), 255 * (found != key)
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


def _bits(found: np.ndarray, bits: int) -> np.ndarray:
    """Rows of numbers of some bits, each row of whole bytes."""
    rows = []
    for row in found:
        text = "".join(f"{n:0{bits}b}" for n in row)
        text += "0" * (-len(text) % 8)
        rows.append([int(text[i : i + 8], 2) for i in range(0, len(text), 8)])
    return np.array(rows)


@pytest.mark.parametrize(("name", "data", "rgb", "alpha"), clear(), ids=[name for name, *_ in clear()])
def test_transparent_pixels_are_dropped_or_shown(name: str, data: bytes, rgb: np.ndarray, alpha: np.ndarray) -> None:
    np.testing.assert_array_equal(decode(data), rgb)
    share = alpha[..., None] / 255
    for background, level in (("white", 255), ("black", 0)):
        np.testing.assert_array_equal(decode(data, alpha=background), np.rint(rgb * share + level * (1 - share)))
    assert decoded(data).transparent == decoded(data, alpha="white").transparent == bool((alpha < 255).any())


def test_associated_alpha_is_divided_out_first() -> None:
    """Pillow's division rounds; what is shown on black is what was stored, within a level."""
    stored = numbers(255, 3, 3) * ALPHA[..., None] // 255
    for order, bits in product("<>", (8, 16)):
        whole = np.dstack([stored, ALPHA]) * (257 if bits == 16 else 1)
        data = tiff(whole.astype(f"u{bits // 8}"), order=order, t338=1, t339=1)
        for background, level in (("white", 255), ("black", 0)):
            expected = stored + level * (255 - ALPHA[..., None]) / 255
            assert np.abs(decode(data, alpha=background) - expected).max() <= 1
        assert decoded(data).transparent
    two = np.dstack([stored[..., 0], ALPHA]).astype("u1")
    data = tiff(two, t262=1, t338=1)
    assert np.abs(decode(data, alpha="black") - grey(stored[..., 0])).max() <= 1
    assert decoded(data).transparent


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000"])
def test_an_alpha_that_is_full_is_no_transparency(kind: str) -> None:
    rgba = np.dstack([numbers(255, 3, 3), np.full((HEIGHT, WIDTH), 255)]).astype("u1")
    picture = decoded(saved(Image.fromarray(rgba), kind))
    assert not picture.transparent
    np.testing.assert_array_equal(picture.pixels, decode(saved(Image.fromarray(rgba), kind), alpha="white"))


def test_a_key_that_no_pixel_can_have_is_no_reason() -> None:
    """It was none before anything looked at it."""
    colours = (b"PLTE", bytes(range(36)))
    for data in (
        png(4, 2, 8, 0, bytes(10), (b"tRNS", b"\xff\xff")),
        png(4, 2, 2, 0, bytes(4), (b"tRNS", b"\xff\xff")),
        png(4, 2, 8, 2, bytes(26), (b"tRNS", b"\xff\xff\xff\xff\1\1")),
        png(4, 2, 8, 3, bytes(10), colours, (b"tRNS", b"\xff" * 300 + b"\0")),
        png(4, 2, 8, 3, bytes(10), colours, (b"tRNS", b"\xff" * 300 + b"\1")),
        png(4, 2, 8, 3, bytes(10), colours, (b"tRNS", b"")),
    ):
        assert decode(data, alpha="white").shape == (2, 4, 3)
        assert not decoded(data).transparent


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
    found = np.zeros((h, w, 3), stored.dtype)
    for r, c in product(range(rows), range(columns)):
        found[PLACES[orientation](r, c, h, w)] = stored[r, c]
    return found


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_a_picture_is_turned_once_as_its_exif_says(kind: str, orientation: int) -> None:
    picture = Image.fromarray(numbers(255, channels=3).astype("u1")).resize((23, 17), Image.Resampling.BICUBIC)
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = decode(saved(picture, kind, **options))
    data = saved(picture, kind, exif=exif(orientation), **options)
    expected = upright(plain, orientation)
    applied = decode(data, exif="apply")
    np.testing.assert_array_equal(applied, expected)
    assert applied.flags.c_contiguous
    if kind == "TIFF":  # Pillow turns them always
        np.testing.assert_array_equal(decode(data), expected)
        assert decoded(data).orientation == 1
    else:
        np.testing.assert_array_equal(decode(data), plain)
        assert decoded(data).orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_ways_to_decode_a_jpeg_agree_on_its_orientation(orientation: int) -> None:
    picture = Image.fromarray(numbers(255, channels=3).astype("u1")).resize((230, 170), Image.Resampling.BICUBIC)
    for mode in ("RGB", "L", "CMYK"):
        data = saved(picture.convert(mode), "JPEG", exif=exif(orientation), quality=95)
        assert jpeg_orientation(data) == decoded(data).orientation == orientation
        small = decode(data, 40, exif="apply")
        assert small.shape[:2] == ((43, 58) if orientation < 5 else (58, 43))
        np.testing.assert_array_equal(small, upright(decode(data, 40), orientation))


def test_an_orientation_in_xmp_is_one() -> None:
    """As Pillow has it, where the EXIF says none."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = Image.fromarray(numbers(255, channels=3).astype("u1"))
    data = saved(image, "JPEG", xmp=xmp)
    assert decoded(data).orientation == decoded(data, 4).orientation == 6
    assert decoded(saved(image, "JPEG", xmp=xmp, exif=exif(3))).orientation == 3


BLOCKS = {
    "nothing": b"Exif\0\0",
    "cut": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12",
    "nowhere": b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(50),
    "no TIFF": b"Exif\0\0XX" + bytes(40),
    "nine": exif(9).tobytes(),
    "zero": exif(0).tobytes(),
    "text": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\0026\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_broken_exif_is_no_bad_image(name: str, kind: str) -> None:
    picture = Image.fromarray(numbers(255, channels=3).astype("u1"))
    data = saved(picture, kind, exif=BLOCKS[name], **({"lossless": True} if kind == "WEBP" else {}))
    found = decoded(data, exif="apply")
    assert found.orientation == 1
    assert found.pixels.shape == (HEIGHT, WIDTH, 3)


def test_only_what_comes_before_the_pixels_is_read() -> None:
    """Not a second time the whole file, however many segments it claims."""
    whole = saved(Image.fromarray(numbers(255, channels=3).astype("u1")), "JPEG")
    late = whole + saved(Image.new("RGB", (8, 8)), "JPEG", exif=exif(6))
    assert jpeg_orientation(late) == 1
    segment = saved(Image.new("RGB", (8, 8)), "JPEG", exif=exif(6))[2:]
    assert jpeg_orientation(b"\xff\xd8" + b"\xff" * 50 + segment) == 6
    assert jpeg_orientation(b"\xff\xd8" + b"\xff\xfe\0\2" * 10_000_000 + segment) == 1
    for cut in range(40):
        assert jpeg_orientation((b"\xff\xd8" + segment)[:cut]) in (1, 6)


def test_what_differs_from_the_default_is_part_of_the_id() -> None:
    plain = Preprocess(224, MEAN, MEAN)
    assert plain.id == "clean.2-224-none-mean0.5,0.5,0.5-std0.5,0.5,0.5"
    assert Preprocess(224, MEAN, MEAN, alpha="drop", exif="ignore").id == plain.id
    ids = {
        Preprocess(224, MEAN, MEAN, alpha=alpha, exif=turn).id
        for alpha, turn in product(("drop", "white", "black"), ("ignore", "apply"))
    }
    assert len(ids) == 6
    assert all(name.startswith(plain.id) for name in ids)


@pytest.mark.parametrize(("key", "value"), [("alpha", "grey"), ("alpha", True), ("exif", "yes"), ("alhpa", "white")])
def test_what_is_not_allowed_is_named(key: str, value: Any) -> None:
    with pytest.raises(ExtractorError, match=rf"extractor.preprocess.{key}.*allowed are"):
        build(named_extractor("test_vit", weights="random", preprocess={key: value}))


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


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's
@pytest.mark.parametrize("resize", ["clean", "reduced", "device"])
@pytest.mark.parametrize("choice", [{}, {"alpha": "white"}, {"exif": "apply"}])
def test_a_worker_counts_what_it_notices(resize: str, choice: dict[str, str], tmp_path: Path) -> None:
    task = Task(0, tuple(find(str(mixed(tmp_path / "images")), 3)))
    config = named_extractor("test_vit", weights="random", preprocess={"resize": resize, **choice})
    spec = replace(network_spec(build(config)), distributions=("gaussian",))
    vdna = Worker(Job(config, spec, batch_size=4)).vdna(task)
    assert vdna.ledger.noticed == NOTICED
    assert vdna.ledger.counted == 11
    digest = vdna.digest()
    vdna.ledger.noticed = None
    assert vdna.digest() == digest


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_device_turns_jpegs_too(orientation: int) -> None:
    picture = Image.fromarray(numbers(255, channels=3).astype("u1")).resize((300, 220), Image.Resampling.BICUBIC)
    data = saved(picture, "JPEG", exif=exif(orientation))
    for crop in ("none", "center", "random"):
        preprocess = Preprocess(64, MEAN, MEAN, "device", crop, exif="apply")
        (made,) = device_inputs([data], ["key"], preprocess, "cpu", [orientation])
        assert made is not None
        expected = preprocess(decode(data, exif="apply"), "key")
        assert (made - expected).abs().max() * 0.5 * 255 < 0.01
    with pytest.raises(ValueError, match="orientations"):
        device_inputs([data], ["key"], preprocess, "cpu")
    ignoring = replace(preprocess, exif="ignore")
    (made,) = device_inputs([data], ["key"], ignoring, "cpu", [orientation])
    assert made is not None
    assert (made - ignoring(decode(data), "key")).abs().max() * 0.5 * 255 < 0.01


def test_make_vdna_takes_them(tmp_path: Path) -> None:
    folder = mixed(tmp_path / "images")
    options: dict[str, Any] = {"weights": "random", "distributions": ["gaussian"]}
    plain = make_vdna(folder, "test_vit", **options)
    white, turned = (
        make_vdna(folder, "test_vit", **options, preprocess=choice)
        for choice in ({"alpha": "white"}, {"exif": "apply"})
    )
    assert len({vdna.spec.id for vdna in (plain, white, turned)}) == 3
    means = [vdna.gaussian("norm").mean for vdna in (plain, white, turned)]
    assert not any(np.array_equal(a, b) for a, b in zip(means, [*means[1:], means[0]], strict=True))
    assert plain.spec.id == make_vdna(folder, "test_vit", **options, preprocess={"alpha": "drop"}).spec.id


def ledger(url: str, said: dict[str, int] | None) -> Ledger:
    found = Ledger([ShardRecord(url, counted=9)])
    found.noticed = said
    return found


def test_what_was_noticed_merges_as_the_images_do() -> None:
    a, b, c = ({"transparent": n, "rotated": 2 * n} for n in (1, 2, 3))
    for order in ((a, b, c), (c, a, b)):
        total = Ledger()
        for i, said in enumerate(order):
            total.merge(ledger(f"{i}.tar", said))
        total.merge(Ledger())
        assert total.noticed == {"transparent": 6, "rotated": 12}
    total.merge(ledger("of before", None))
    assert total.noticed is None
    total.merge(ledger("later", a))
    assert total.noticed is None


@pytest.fixture
def ran(in_process: None, tmp_path: Path) -> Any:
    where = ("dataset=images", "dataset.name=mine", f"dataset.url={mixed(tmp_path / 'images')}")
    few = ("distributions=[histogram-20,gaussian]", "images_per_shard=3", "max_bad_fraction=1", "actors=2", "threads=1")
    return context(*where, f"catalogue={tmp_path / 'c'}", *TINY, *few, "batch_size=4")


def test_a_run_counts_once_whatever_was_there_before(ran: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Partials of an ended run count, and none twice; without counts nothing is claimed; the digest is the same."""
    said = manifest(do(ran))
    assert said["noticed"] == NOTICED
    assert main(["show", "mine", "--catalogue", ran.settings.catalogue]) == 0
    assert json.loads(capsys.readouterr().out)["noticed"] == NOTICED
    store, spec = ran.store, ran.spec()
    ids = sorted(store.partials(spec.id))
    assert len(ids) == 4
    store.remove(f"partials/{spec.id}/{ids[0]}.zip")
    store.remove(f"vdnas/mine/{ran.extractor.name}/{spec.id}.json")
    again = manifest(do(ran))
    assert (again["noticed"], again["digest"], again["group"]) == (NOTICED, said["digest"], said["group"])
    vdna, provenance = store.get_partial(spec, ids[1])
    vdna.ledger.noticed = None  # as a program of before has written it
    store.put_partial(vdna, ids[1], provenance)
    store.remove(f"vdnas/mine/{ran.extractor.name}/{spec.id}.json")
    unknown = manifest(do(ran))
    assert "noticed" not in unknown
    assert (unknown["digest"], unknown["group"]) == (said["digest"], said["group"])


@pytest.mark.parametrize("said", ["[]", "7", '{"rotated": -1}', '{"rotated": 1.5}', '{"rotated": 99}', "{", "null"])
def test_impossible_counts_are_damage(said: str, tmp_path: Path) -> None:
    config = named_extractor("test_vit", weights="random")
    spec = replace(network_spec(build(config)), distributions=("gaussian",))
    task = Task(0, tuple(find(str(mixed(tmp_path / "images")))))
    store = Store(str(tmp_path / "c"))
    Worker(Job(config, spec)).run(task, store)
    path = f"partials/{spec.id}/{task.id}.zip"
    store.put_partial(store.get_partial(spec, task.id)[0], task.id, {})  # type: ignore[index]
    written = store.get(path)
    assert written is not None
    before = json.dumps(json.dumps(NOTICED | {}))[1:-1].encode()
    assert before in written
    changed = json.dumps(said)[1:-1].encode()
    archive = tmp_path / "changed.zip"
    archive.write_bytes(written)
    store.put(path, rewritten(written, before, changed))
    with pytest.raises(DamagedError, match="was removed"):
        store.get_partial(spec, task.id)


def rewritten(archive: bytes, before: bytes, after: bytes) -> bytes:
    """A zip with other bytes in its members, whole as a zip."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(before, after))
    return buffer.getvalue()


def test_a_run_says_so_at_its_end(tmp_path: Path) -> None:
    where = ("dataset=images", "dataset.name=mine", f"dataset.url={mixed(tmp_path / 'images')}")
    few = ("distributions=[gaussian]", "max_bad_fraction=1", "threads=1", "stages=[plan,extract,reduce]")
    common = (*where, f"catalogue={tmp_path / 'c'}", *TINY, *few)
    done = command(*common)
    assert done.returncode == 0, done.stderr
    assert (
        "mine: 5 with transparency (dropped; extractor.preprocess.alpha=white shows them on white), "
        "3 with an EXIF rotation (ignored; extractor.preprocess.exif=apply turns them)\n"
    ) in done.stdout
    done = command(*common, "extractor.preprocess.alpha=black", "extractor.preprocess.exif=apply")
    assert done.returncode == 0, done.stderr
    assert "mine: 5 with transparency (shown on black), 3 with an EXIF rotation (applied)\n" in done.stdout


def test_nothing_is_said_of_none() -> None:
    for said in ({}, {"transparent": 0, "rotated": 0}):
        assert noticed(said, {}) == ""
    assert noticed({"rotated": 1}, {"exif": "apply"}) == "1 with an EXIF rotation (applied)"


def test_inputs_differ_only_where_they_should() -> None:
    """A picture without alpha or EXIF is the same whatever is asked."""
    data = saved(Image.fromarray(numbers(255, channels=3).astype("u1")), "PNG")
    made = [
        preprocess(decode(data, **preprocess.decoding))
        for preprocess in (Preprocess(32, MEAN, MEAN), Preprocess(32, MEAN, MEAN, alpha="white", exif="apply"))
    ]
    assert torch.equal(*made)
