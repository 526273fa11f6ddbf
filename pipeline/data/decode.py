"""Decoding image files to RGB pixels, or stating why a file cannot be decoded.

    decode(data)                              # (height, width, 3) uint8; raises BadImage
    decode(data, alpha="white", exif="apply")
    decoded(data).transparent                 # the pixels with further properties of the picture
    BadImage("truncated").reason              # the reason in the ledger

The cost of decoding is bounded for any bytes: there are limits for the length of the file, the pixels and sides of the
picture, and the scans of a progressive JPEG. Decoding the largest picture takes about 1.3 GiB of memory.
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

from distributions.errors import VDNAError
from extractors.preprocess.transform import turned
from pipeline.data.orientation import jpeg_orientation, orientation_of

Image.init()
FORMATS = tuple(
    sorted(Image.OPEN.keys() & {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"})
)
"""Formats that are decoded. Pillow's other decoders, some of which start programs, are never used."""

MAX_BYTES = 256 << 20
"""Image files with more bytes are skipped as too large. In archives such files are not even read."""
MAX_PIXELS = 178_956_970
"""Pictures with more pixels are skipped as too large (Pillow's own limit against decompression bombs)."""
MAX_SIDE = 65_535
"""Pictures with a longer side are skipped as too large. Resizing changes one side at a time, so the intermediate
picture can be larger than the original."""
MAX_SCANS = 64
"""Largest number of scans in a progressive JPEG of `MAX_PIXELS`; a smaller picture may have proportionally more. Ten
are usual. An empty scan has about 200 bytes in the file and takes a twentieth of a second."""
SCAN = b"\xff\xda"
MAX_TILE = 1 << 24
"""Largest number of pixels in a tile of a TIFF. A tile may be larger than the picture."""
STRIP_PIXELS = 1 << 20
"""Pixels that are converted at once, so that no second copy of the whole picture is in memory."""
STATED_RANGES: tuple[int, ...] = tuple(2**bits - 1 for bits in range(8, 17))
"""Stated maxima of a TIFF that are the depth of its samples. Other values are taken for measured maxima."""
FLOATS = "floating-point pixels"
UNSUPPORTED = "not an image of a supported format"
NO_RANGE = "integer pixels of unknown range"
BACKGROUNDS = {"white": 255, "black": 0}
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT, MAXIMA = 258, 262, 284, 339, (341, 281)
"""TIFF tags: BitsPerSample, PhotometricInterpretation, PlanarConfiguration, SampleFormat, S- and MaxSampleValue."""
NATIVE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"} if sys.byteorder == "little" else {}


class BadImage(VDNAError):
    """An image that cannot be used. The ledger counts it under `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Picture(NamedTuple):
    """A decoded picture: its pixels (height, width, 3) uint8, whether any pixel was transparent, and the EXIF
    orientation, 1 to 8."""

    pixels: np.ndarray
    transparent: bool
    orientation: int


def decode(data: bytes, least_side: int | None = None, alpha: str = "drop", exif: str = "ignore") -> np.ndarray:
    """Decode an image file, or the first frame of an animation, to RGB pixels (height, width, 3) uint8.

    With `least_side`, a JPEG is decoded at a half, a quarter or an eighth of its size, if both sides keep that many
    pixels. `alpha` is `drop` (ignore transparency), or the background `white` or `black`; `exif` is `ignore` (keep the
    stored orientation) or `apply` (turn the picture). The defaults are those of the `vdna` library.
    docs/configuration.md explains how samples of more than 8 bits become grey levels. Raises `BadImage`.
    """
    return decoded(data, least_side, alpha, exif).pixels


def decoded(data: bytes, least_side: int | None = None, alpha: str = "drop", exif: str = "ignore") -> Picture:
    """Like `decode`, with whether the picture is transparent and how it is turned."""
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
    """Whether bytes begin like an image in a format that can be decoded."""
    _ignore_warnings()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS):
            return True
    except Exception:  # a decoder can raise any exception
        return False


def _by_pillow(data: bytes, least_side: int | None, alpha: str) -> Picture:
    _ignore_warnings()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, data)
            if least_side is not None:
                image.draft(None, (least_side, least_side))  # has an effect on JPEGs only
            _fix(image, data)
            image.load()  # turns a TIFF, which can swap its sides
            pixels, transparent = _pixels(image, BACKGROUNDS.get(alpha))
            return Picture(pixels, transparent, orientation_of(image))
    except UnidentifiedImageError:
        raise BadImage(UNSUPPORTED) from None
    except (Image.DecompressionBombError, MemoryError):
        raise BadImage("too large") from None
    except BadImage:
        raise
    except Exception as error:  # a broken file can make a decoder raise any exception
        raise BadImage("truncated" if "truncated" in str(error) else "corrupt") from None


def _usual_jpeg(data: bytes) -> np.ndarray | None:
    """Decode an intact JPEG with usual colours and cost: the same pixels as Pillow's, in two thirds of the time.
    Returns None for anything else, which is left to Pillow."""
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


def _ignore_warnings() -> None:
    """Ignore Pillow's warnings of odd metadata: only the pixels matter. The filter is set once and stays, because
    `warnings.catch_warnings` around each image is not safe with threads."""
    with _quiet_lock:
        if _QUIET not in warnings.filters:
            warnings.filterwarnings("ignore", module=r"PIL\.")


def _check_size(image: Image.Image, data: bytes) -> None:
    """Refuse a picture by its header, before pixels are allocated or decoded."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS or max(image.size) > MAX_SIDE:
        raise BadImage("too large")
    if image.format in ("JPEG", "MPO") and data.count(SCAN) * pixels > MAX_SCANS * MAX_PIXELS:
        raise BadImage("too large")
    tags = getattr(image, "tag_v2", {})  # of a TIFF: 322 and 323 are the width and height of its tiles
    if tags.get(322, 0) * tags.get(323, 0) > max(MAX_TILE, pixels):
        raise BadImage("too large")


def _fix(image: Any, data: bytes) -> None:
    """Correct what Pillow has read from a header, where it would decode wrong pixels."""
    if image.format == "PNG" and "transparency" in image.info:
        _fix_transparency(image, data)
    if image.format == "TIFF":
        tags = image.tag_v2
        wide = tags.get(PLANAR) == 2 and tags[BITS][0] == 16
        image.tile = [_fixed_tile(tile, wide, tags.prefix) for tile in image.tile]


def _fixed_tile(tile: Any, wide: bool, order: bytes) -> Any:
    raw, *arguments = tile.args
    if tile.codec_name == "libtiff":  # libtiff has already put the bytes in this machine's order
        raw = NATIVE.get(raw, raw)
    elif wide:  # Pillow would take a channel of 16 bits for one of 8
        if raw not in ("R", "G", "B", "A"):
            raise BadImage(UNSUPPORTED)
        raw = f"{raw};16{'B' if order == b'MM' else 'L'}"
    return tile._replace(args=(raw, *arguments))


def _fix_transparency(image: Any, data: bytes) -> None:
    """Convert the transparent colour of a PNG to the levels that its decoded pixels have."""
    key, raw = image.info["transparency"], image.tile[0].args
    if raw == "RGB;16B":  # decoding drops the lower 8 bits, which the colour needs
        image.putalpha(_opaque(image, data, key))
    elif image.mode == "RGB":
        image.info["transparency"] = tuple(value & 255 for value in key)
    elif image.mode == "L":
        maximum = {"L;2": 3, "L;4": 15}.get(raw, 255)
        image.info["transparency"] = (key & maximum) * 255 // maximum
    elif image.mode == "P":  # a palette of at most 256 colours
        image.info["transparency"] = key[:256] if isinstance(key, bytes) else key if key < 256 else b""


def _opaque(image: Image.Image, data: bytes, key: tuple[int, ...]) -> Image.Image:
    """The alpha channel of a PNG of 16 bits: 0 at pixels of the transparent colour, 255 elsewhere."""
    opaque = np.zeros((image.height, image.width), bool)
    for raw, shift in (("RGB;16B", 8), ("RGB;16L", 0)):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as half:
            half.tile = [tile._replace(args=raw) for tile in half.tile]
            for top, strip in _strips(half):
                differs = np.asarray(strip) != [value >> shift & 255 for value in key]
                opaque[top : top + strip.height] |= differs.any(axis=2)
    return Image.fromarray(opaque.astype(np.uint8) * 255)


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """An image in strips of `STRIP_PIXELS`, each with the number of its first row."""
    width, height = image.size
    rows = max(STRIP_PIXELS // width, 1)
    for top in range(0, height, rows):
        yield top, image if rows >= height else image.crop((0, top, width, min(top + rows, height)))


def _pixels(image: Image.Image, background: int | None) -> tuple[np.ndarray, bool]:
    """The pixels (height, width, 3) uint8 of a loaded image, and whether any is transparent."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    scale, transparent = _scale(image), False
    for top, strip in _strips(image):
        rgb = _rgb(strip) if scale is None else _levels(strip, scale)
        if image.has_transparency_data:
            opacity = _opacity(strip, image.info.get("transparency"))
            if opacity.min() < 255:
                transparent = True
                if background is not None:
                    rgb = _blend(background, rgb, opacity)
        pixels[top : top + strip.height] = rgb
    return pixels, transparent


def _opacity(image: Image.Image, key: Any) -> np.ndarray:
    """The opacity of each pixel, 0 to 255. Pillow would compare only the lower 8 bits of 16-bit grey with `key`."""
    if image.mode.startswith("I") and isinstance(key, int):
        return np.where(np.asarray(image) == key, 0, 255)
    return np.asarray(_straight(image).convert("RGBA").getchannel("A"))


def _blend(background: int, rgb: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Blend colours with a grey background, rounded to the nearest level. There are no ties: 255 is odd."""
    share = opacity[..., None].astype(np.uint32)
    return ((rgb * share + background * (255 - share) + 127) // 255).astype(np.uint8)


def _rgb(image: Image.Image) -> np.ndarray:
    image = _straight(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _straight(image: Image.Image) -> Image.Image:
    """Convert premultiplied grey, which Pillow converts only to LA."""
    return image.convert("LA") if image.mode == "La" else image


class Scale(NamedTuple):
    """The meaning of the samples of a grey picture: 0 is black and `white` is white, or the reverse if `negative`."""

    white: int
    negative: bool


def _levels(image: Image.Image, scale: Scale) -> np.ndarray:
    samples = np.asarray(image).astype(np.int64)
    if scale.negative:
        samples = scale.white - samples
    return (samples * 255 // scale.white).astype(np.uint8)[..., None]


def _scale(image: Image.Image) -> Scale | None:
    """The scale of a picture whose samples Pillow leaves unchanged; None if Pillow converts them to 8-bit levels."""
    tags = getattr(image, "tag_v2", None) or {}
    if image.mode == "L" and 2 in tags.get(SAMPLE_FORMAT, ()) and np.max(image.getextrema()) > 127:
        raise BadImage(NO_RANGE)  # signed samples below zero, which Pillow would take for bright ones
    if not image.mode.startswith(("I", "F")):
        return None
    return Scale(_white(image, tags), tags.get(PHOTOMETRIC) == 0)


def _white(image: Image.Image, tags: Any) -> int:
    """The sample that stands for white. Raises `BadImage` if it cannot be told."""
    if not tags and image.mode != "F":  # PNG, PGM and JPEG 2000 state their range, and Pillow scales it to 16 bits
        return 65535
    extremes, integral = [], True
    for _, strip in _strips(image):
        samples = np.asarray(strip)
        extremes += [samples.min(), samples.max()]
        integral = integral and (image.mode != "F" or bool((np.floor(samples) == samples).all()))
    lowest, highest = np.min(extremes), np.max(extremes)  # NaN if any sample is NaN
    if image.mode == "F":
        if not (integral and lowest >= 0 and 1 < highest <= 255):
            raise BadImage(FLOATS)
        return 255
    if tags[BITS][0] == 12:
        return 4095
    if image.mode == "I" and (lowest < 0 or highest > 65535):
        raise BadImage(NO_RANGE)
    for stated in (tags.get(tag) for tag in MAXIMA):
        for depth in STATED_RANGES:
            if stated in (depth, (depth,)) and highest <= depth:
                return depth
    return 255 if image.mode == "I" and highest <= 255 else 65535
