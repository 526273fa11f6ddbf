"""Transparent pixels are dropped or shown on a ground."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decode import decode, decoded
from tests.helpers.dirty_pictures import png
from tests.helpers.image_files import ALPHA, HEIGHT, WIDTH, clear, grey, numbers, saved, tiff


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
