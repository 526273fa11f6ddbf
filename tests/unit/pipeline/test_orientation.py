"""A picture is turned as its EXIF rotation says, once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from extractors import Preprocess, device_inputs
from pipeline.data.decode import decode, decoded
from pipeline.data.orientation import jpeg_orientation
from tests.helpers.image_files import HEIGHT, MEAN, WIDTH, exif, numbers, saved, upright


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
    result = decoded(data, exif="apply")
    assert result.orientation == 1
    assert result.pixels.shape == (HEIGHT, WIDTH, 3)


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
