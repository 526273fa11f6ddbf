"""Pixels have the right values: numbers of any width, alpha and orientation, against computations of their own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decode import BadImage, decode, decoded
from tests.helpers.dirty_pictures import png
from tests.helpers.image_files import HEIGHT, WIDTH, grey, numbers, saved, tiff

Case = tuple[str, bytes, np.ndarray | str]
"""A name, a file, and its levels or the reason why it is skipped."""


FLOATS, INTEGERS, UNKNOWN = (
    "floating-point pixels",
    "integer pixels of unknown range",
    "not an image of a supported format",
)


def scaled(values: np.ndarray, most: int) -> np.ndarray:
    """Levels as exact fractions rounded down, one by one."""
    return grey(np.array([[int(n) * 255 // most for n in row] for row in values]))


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
        with pytest.raises(BadImage) as error:
            decode(data)
        assert error.value.reason == expected
        return
    np.testing.assert_array_equal(decode(data), expected)
    assert not decoded(data).transparent
