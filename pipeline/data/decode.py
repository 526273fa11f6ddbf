"""From an image file's bytes to an RGB picture, or the reason why not.

    decode(data)                              # (height, width, 3) uint8, or raises BadImage
    BadImage("truncated").reason              # what the ledger will say

Whatever the bytes are, what they can cost is bounded: their length, the picture's pixels and sides, and how
often a progressive JPEG goes over them. A picture of the most pixels takes about 1.3 GiB while it is decoded.
"""

from __future__ import annotations

import io
import re
import threading
import warnings

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

Image.init()
FORMATS = tuple(
    sorted(Image.OPEN.keys() & {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})
)
"""Pillow's other decoders, some of which start programs, are never reached."""

MAX_BYTES = 256 << 20
"""Image files with more bytes are skipped as too large; those in archives without being read."""
MAX_PIXELS = 178_956_970
"""Pictures with more pixels are skipped as too large (Pillow's own limit against decompression bombs)."""
MAX_SIDE = 65_535
"""Pictures with a longer side are skipped as too large: resized one side at a time, they grow before they shrink."""
MAX_SCANS = 64
"""How often a progressive JPEG of `MAX_PIXELS` may go over them; a smaller one may more often. Usual are ten. A scan
costs 200 bytes in the file and a twentieth of a second."""
SCAN = b"\xff\xda"
MAX_TILE = 1 << 24
"""Pixels of a tile of a TIFF, which may be larger than its picture."""
STRIP_PIXELS = 1 << 20
"""Pixels converted at once: beside the picture itself, no copy of the whole is made."""


class BadImage(Exception):
    """This image cannot be used; `reason` is the ledger's word for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(data: bytes, least_side: int | None = None) -> np.ndarray:
    """(height, width, 3) uint8. The first frame of an animation; alpha is dropped and EXIF rotation ignored,
    as in the seed library; 16-bit grey is scaled to 8 bits. Raises `BadImage`.

    A JPEG is decoded at a half, a quarter or an eighth as long as both sides keep `least_side`, if one is given.
    """
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_BYTES:
        raise BadImage("too large")
    if least_side is None and (picture := _usual_jpeg(data)) is not None:
        return picture
    _quieten()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, data)
            if least_side is not None:
                image.draft(None, (least_side, least_side))  # JPEGs alone heed it
            image.load()  # it turns some TIFFs, and their sides change
            return _pixels(image)
    except UnidentifiedImageError:
        raise BadImage("not an image of a supported format") from None
    except (Image.DecompressionBombError, MemoryError):
        raise BadImage("too large") from None
    except BadImage:
        raise
    except Exception as error:  # a broken file can make a decoder raise anything; it is counted by its reason
        raise BadImage("truncated" if "truncated" in str(error) else "corrupt") from None


def _usual_jpeg(data: bytes) -> np.ndarray | None:
    """A whole JPEG in usual colours and of no unusual cost, with Pillow's pixels in two thirds of the time. None for
    anything else: Pillow takes it, or says what it is."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        usual = colours in ("YCbCr", "Gray") and max(height, width) <= MAX_SIDE
        if not usual or max(data.count(SCAN), MAX_SCANS) * height * width > MAX_SCANS * MAX_PIXELS:
            return None
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB"))
    except (ValueError, MemoryError):
        return None


_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_quiet_lock = threading.Lock()


def _quieten() -> None:
    """Pillow warns of odd metadata; only the pixels matter. A filter set for each image and taken back would
    be taken from the other threads as well, and could stay: it is set once."""
    with _quiet_lock:
        if _QUIET not in warnings.filters:
            warnings.filterwarnings("ignore", module=r"PIL\.")


def _check_size(image: Image.Image, data: bytes) -> None:
    """Refuse by the header alone, before pixels are allocated or decoded."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise BadImage("too large")
    if image.format in ("JPEG", "MPO") and data.count(SCAN) * pixels > MAX_SCANS * MAX_PIXELS:
        raise BadImage("too large")
    tags = getattr(image, "tag_v2", {})  # a TIFF's: 322 and 323 are the width and height of its tiles
    if tags.get(322, 0) * tags.get(323, 0) > max(MAX_TILE, pixels):
        raise BadImage("too large")
    if image.mode == "F":  # no range of its own to scale from
        raise BadImage("floating-point pixels")


def _pixels(image: Image.Image) -> np.ndarray:
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        strip = image if rows >= height else image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = _rgb(strip)
    return pixels


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # Pillow clips 16-bit grey at 255 instead of scaling it
        return (np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8)[..., None]
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
