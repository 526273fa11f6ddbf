"""From an image file's bytes to an RGB picture, or the reason why not."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

Image.init()
FORMATS = tuple(
    sorted(Image.OPEN.keys() & {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})
)
"""Pillow's other decoders, some of which start programs, are never reached."""

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are skipped as too large (Pillow's own limit against decompression bombs)."""


class BadImage(Exception):
    """This image cannot be used; `reason` is the ledger's word for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(data: bytes) -> np.ndarray:
    """(height, width, 3) uint8. The first frame of an animation; alpha is dropped and EXIF rotation ignored,
    as in the seed library; 16-bit grey is scaled to 8 bits. Raises `BadImage`.
    """
    if not data:
        raise BadImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; only the pixels matter
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImage("too large")
                return np.array(_rgb(image))
    except UnidentifiedImageError:
        raise BadImage("not an image of a supported format") from None
    except Image.DecompressionBombError:
        raise BadImage("too large") from None
    except MemoryError:
        raise BadImage("too large") from None
    except BadImage:
        raise
    except Exception as error:  # a broken file can make a decoder raise anything; it is counted by its reason
        raise BadImage("truncated" if "truncated" in str(error) else "corrupt") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow clips 16-bit grey at 255 instead of scaling it
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # no range of its own to scale from
        raise BadImage("floating-point pixels")
    return image.convert("RGB")
