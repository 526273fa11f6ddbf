"""From an image file's bytes to an RGB picture, or the reason why not.

    decode(data)                              # (height, width, 3) uint8, or raises BadImage
    decode(data, alpha="white", exif="apply")
    decoded(data).transparent                 # the same, with what was noticed
    BadImage("truncated").reason              # what the ledger will say

Whatever the bytes are, what they can cost is bounded: their length, the picture's pixels and sides, and how
often a progressive JPEG goes over them. A picture of the most pixels takes about 1.3 GiB while it is decoded.
"""

from __future__ import annotations

import io
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from extractors.preprocess.transform import turned
from pipeline.data.orientation import jpeg_orientation, orientation_of

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
STATED_RANGES: tuple[int, ...] = tuple(2**bits - 1 for bits in range(8, 17))
"""Largest values of a TIFF that are the depth of its samples; others are measurements of what the picture shows."""
FLOATS = "floating-point pixels"
UNSUPPORTED = "not an image of a supported format"
NO_RANGE = "integer pixels of unknown range"
BACKGROUNDS = {"white": 255, "black": 0}
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT, MAXIMA = 258, 262, 284, 339, (341, 281)
"""Tags of a TIFF."""
NATIVE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"} if sys.byteorder == "little" else {}


class BadImage(Exception):
    """This image cannot be used; `reason` is the ledger's word for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Picture(NamedTuple):
    """(height, width, 3) uint8; whether some of it was transparent, and its EXIF orientation, 1 to 8."""

    pixels: np.ndarray
    transparent: bool
    orientation: int


def decode(data: bytes, least_side: int | None = None, alpha: str = "drop", exif: str = "ignore") -> np.ndarray:
    """(height, width, 3) uint8. The first frame of an animation. Raises `BadImage`.

    `alpha` is `drop`, as in the seed library, or `white` or `black`: what transparent pixels are shown on. `exif` is
    `ignore`, as in the seed library, or `apply`: the picture is turned as its EXIF says. A JPEG is decoded at a half, a
    quarter or an eighth as long as both sides keep `least_side`, if one is given. docs/extractors.md says how numbers
    of more than 8 bits become grey levels.
    """
    return decoded(data, least_side, alpha, exif).pixels


def decoded(data: bytes, least_side: int | None = None, alpha: str = "drop", exif: str = "ignore") -> Picture:
    """What `decode` makes, with what was noticed."""
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_BYTES:
        raise BadImage("too large")
    if least_side is None and (pixels := _usual_jpeg(data)) is not None:
        picture = Picture(pixels, False, jpeg_orientation(data))
    else:
        picture = _by_pillow(data, least_side, alpha)
    if exif != "apply" or picture.orientation == 1:
        return picture
    return picture._replace(pixels=np.ascontiguousarray(turned(picture.pixels, picture.orientation)))


def has_header(data: bytes) -> bool:
    """Whether bytes begin like an image of a format that can be decoded."""
    _quieten()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS):
            return True
    except Exception:  # a decoder raises anything
        return False


def _by_pillow(data: bytes, least_side: int | None, alpha: str) -> Picture:
    _quieten()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, data)
            if least_side is not None:
                image.draft(None, (least_side, least_side))  # JPEGs alone heed it
            _mend(image, data)
            image.load()  # it turns TIFFs, and their sides change
            pixels, transparent = _pixels(image, BACKGROUNDS.get(alpha))
            return Picture(pixels, transparent, orientation_of(image))
    except UnidentifiedImageError:
        raise BadImage(UNSUPPORTED) from None
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


def _mend(image: Any, data: bytes) -> None:
    """Have Pillow load what it would load wrongly."""
    if image.format == "PNG" and "transparency" in image.info:
        _mend_key(image, data)
    if image.format == "TIFF":
        tags = image.tag_v2
        wide = tags.get(PLANAR) == 2 and tags[BITS][0] == 16
        image.tile = [_mended(tile, wide, tags.prefix) for tile in image.tile]


def _mended(tile: Any, wide: bool, order: bytes) -> Any:
    raw, *others = tile.args
    if tile.codec_name == "libtiff":  # which has put the bytes in this machine's order
        raw = NATIVE.get(raw, raw)
    elif wide:  # a channel of 16 bits, which would be taken for one of 8
        if raw not in ("R", "G", "B", "A"):
            raise BadImage(UNSUPPORTED)
        raw = f"{raw};16{'B' if order == b'MM' else 'L'}"
    return tile._replace(args=(raw, *others))


def _mend_key(image: Any, data: bytes) -> None:
    """What is transparent in a PNG, in the numbers that its pixels will have."""
    key, raw = image.info["transparency"], image.tile[0].args
    if raw == "RGB;16B":  # they lose their lower 8 bits
        image.putalpha(_keyed(image, data, key))
    elif image.mode == "RGB":
        image.info["transparency"] = tuple(value & 255 for value in key)
    elif image.mode == "L":
        most = {"L;2": 3, "L;4": 15}.get(raw, 255)
        image.info["transparency"] = (key & most) * 255 // most
    elif image.mode == "P":  # of 256 colours
        image.info["transparency"] = key[:256] if isinstance(key, bytes) else key if key < 256 else b""


def _keyed(image: Image.Image, data: bytes, key: tuple[int, ...]) -> Image.Image:
    """Where a PNG of 16 bits has not its transparent colour: 255, elsewhere 0."""
    opaque = np.zeros((image.height, image.width), bool)
    for raw, shift in (("RGB;16B", 8), ("RGB;16L", 0)):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as half:
            half.tile = [tile._replace(args=raw) for tile in half.tile]
            for top, strip in _strips(half):
                differs = np.asarray(strip) != [value >> shift & 255 for value in key]
                opaque[top : top + strip.height] |= differs.any(axis=2)
    return Image.fromarray(opaque.astype(np.uint8) * 255)


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Its rows, some at a time, and the first one's number."""
    width, height = image.size
    rows = max(STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        yield top, image if rows >= height else image.crop((0, top, width, min(top + rows, height)))


def _pixels(image: Image.Image, background: int | None) -> tuple[np.ndarray, bool]:
    """Its colours, and whether some of it is transparent."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    numbers, transparent = _numbers(image), False
    for top, strip in _strips(image):
        rgb = _rgb(strip) if numbers is None else _levels(strip, numbers)
        if image.has_transparency_data:
            opacity = _opacity(strip, image.info.get("transparency"))
            if opacity.min() < 255:
                transparent = True
                if background is not None:
                    rgb = _on(background, rgb, opacity)
        pixels[top : top + strip.height] = rgb
    return pixels, transparent


def _opacity(image: Image.Image, key: Any) -> np.ndarray:
    """0 to 255 of each pixel. Of grey with 16 bits Pillow compares the lower 8 with its transparent level."""
    if image.mode.startswith("I") and isinstance(key, int):
        return np.where(np.asarray(image) == key, 0, 255)
    return np.asarray(_straight(image).convert("RGBA").getchannel("A"))


def _on(background: int, rgb: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Colours on a grey, each rounded to the nearest level; two are never equally near."""
    share = opacity[..., None].astype(np.uint32)
    return ((rgb * share + background * (255 - share) + 127) // 255).astype(np.uint8)


def _rgb(image: Image.Image) -> np.ndarray:
    image = _straight(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _straight(image: Image.Image) -> Image.Image:
    """Pillow converts grey that is multiplied with its alpha to nothing else."""
    return image.convert("LA") if image.mode == "La" else image


class Numbers(NamedTuple):
    """What the numbers in a file mean: that of white, and whether it is that of black instead."""

    white: int
    negative: bool


def _levels(image: Image.Image, numbers: Numbers) -> np.ndarray:
    found = np.asarray(image).astype(np.int64)
    if numbers.negative:
        found = numbers.white - found
    return (found * 255 // numbers.white).astype(np.uint8)[..., None]


def _numbers(image: Image.Image) -> Numbers | None:
    """Of a picture whose numbers Pillow leaves as they are; None where it makes levels of them."""
    tags = getattr(image, "tag_v2", None) or {}
    if image.mode == "L" and 2 in tags.get(SAMPLE_FORMAT, ()) and np.max(image.getextrema()) > 127:
        raise BadImage(NO_RANGE)  # they are below zero, and would be taken for bright ones
    if not image.mode.startswith(("I", "F")):
        return None
    return Numbers(_white(image, tags), tags.get(PHOTOMETRIC) == 0)


def _white(image: Image.Image, tags: Any) -> int:
    if not tags and image.mode != "F":  # of PNG, PGM and JPEG 2000, which know their range: Pillow makes it 16 bits
        return 65535
    extremes, whole = [], True
    for _, strip in _strips(image):
        found = np.asarray(strip)
        extremes += [found.min(), found.max()]
        whole = whole and (image.mode != "F" or bool((np.floor(found) == found).all()))
    lowest, highest = np.min(extremes), np.max(extremes)  # NaN, if there is one
    if image.mode == "F":
        if not (whole and lowest >= 0 and 1 < highest <= 255):
            raise BadImage(FLOATS)
        return 255
    if tags[BITS][0] == 12:
        return 4095
    if image.mode == "I" and (lowest < 0 or highest > 65535):
        raise BadImage(NO_RANGE)
    for said in (tags.get(tag) for tag in MAXIMA):
        for depth in STATED_RANGES:
            if said in (depth, (depth,)) and highest <= depth:
                return depth
    return 255 if image.mode == "I" and highest <= 255 else 65535
