"""From a decoded picture to the network's input.

preprocess = Preprocess(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
preprocess(picture)                       # (3, 224, 224) float32 from (height, width, 3) uint8
preprocess.id                             # "clean.2-224-none-mean0.5,0.5,0.5-std0.5,0.5,0.5"
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from extractors.errors import ExtractorError
from extractors.preprocess.resize import bicubic, normalise

RESIZES = {
    "clean": "clean.2",
    "clean-pillow": "clean-pillow",
    "legacy_pytorch": "legacy_pytorch",
    "legacy_tensorflow": "legacy_tensorflow",
    "reduced": "reduced",
    "device": "device",
}
"""The resizes and their names in an id: another number where the last digits of what comes out have changed."""
CROPS = ("none", "center", "random")
ALPHAS = ("drop", "white", "black")
ORIENTATIONS = ("ignore", "apply")
FLIPS: dict[int, tuple[int, ...]] = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}
"""Axes that are reversed to undo an EXIF orientation, after rows and columns have changed places from 5 on."""
REDUCED_SIDES = 2
"""Times the network's size that a picture keeps when its decoder makes it smaller."""
STRIP_PIXELS = 1 << 24
"""Pixels of a picture that Pillow resizes at once; a larger one is made narrow in strips of rows. Pillow takes columns
first where that is less work, so strips may be off by one bit."""


@dataclass(frozen=True)
class Preprocess:
    """Optional square crop, bicubic antialiased resize to a square without quantisation, normalisation.

    `clean` stays within a thousandth of a grey level of `clean-pillow`, which is Pillow on float32
    channels: bit for bit the way of the vdna library and of clean-fid (Parmar et al. 2022). `reduced` is
    faster for large JPEGs: they are decoded at a half, a quarter or an eighth, not below twice the size,
    and resized from there. `device` decodes and resizes JPEGs where the network runs (`device_inputs`), other
    files as `clean`. `legacy_pytorch` and `legacy_tensorflow` are the bilinear resizes without antialiasing of
    pytorch-fid and of TensorFlow 1, which torch-fidelity has: for FIDs that compare with theirs. A picture that is not
    square is squashed unless cropped.

    `alpha` says what transparent pixels are shown on: `white`, `black`, or `drop`, which shows the colours that they
    have; `exif` whether a picture is turned as its EXIF says, `apply` or `ignore`. A decoder does both (`decoding`).
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "clean"
    crop: str = "none"
    alpha: str = "drop"
    exif: str = "ignore"

    def __post_init__(self) -> None:
        if self.resize not in tuple(RESIZES):
            raise ExtractorError(f"extractor.preprocess.resize={self.resize}: allowed are {', '.join(RESIZES)}")
        if self.crop not in CROPS:
            raise ExtractorError(f"extractor.preprocess.crop={self.crop}: allowed are {', '.join(CROPS)}")
        if self.alpha not in ALPHAS:
            raise ExtractorError(f"extractor.preprocess.alpha={self.alpha}: allowed are {', '.join(ALPHAS)}")
        if self.exif not in ORIENTATIONS:
            raise ExtractorError(f"extractor.preprocess.exif={self.exif}: allowed are {', '.join(ORIENTATIONS)}")
        if self.size < 1:
            raise ExtractorError(f"extractor.preprocess.size={self.size}: must be at least 1 pixel")

    @property
    def id(self) -> str:
        """Name of the transformation; equal ids give equal inputs from equal pictures."""
        mean, std = (",".join(f"{value!r}" for value in values) for values in (self.mean, self.std))
        others = f"-alpha-{self.alpha}" * (self.alpha != "drop") + f"-exif-{self.exif}" * (self.exif != "ignore")
        return f"{RESIZES[self.resize]}-{self.size}-{self.crop}-mean{mean}-std{std}{others}"

    @property
    def least_side(self) -> int | None:
        """A decoder may make a picture smaller, as long as no side gets shorter than this; None: it may not."""
        return REDUCED_SIDES * self.size if self.resize == "reduced" else None

    @property
    def decoding(self) -> dict[str, Any]:
        """What a decoder of image files has to know."""
        return {"least_side": self.least_side, "alpha": self.alpha, "exif": self.exif}

    def __call__(self, picture: np.ndarray, key: str = "") -> torch.Tensor:
        """(height, width, 3) uint8 to (3, size, size) float32. `key` names the image: it places a random crop."""
        picture = cropped(picture, self.crop, key)
        if self.resize == "clean-pillow":
            planes = _by_pillow(picture, self.size)
        elif self.resize.startswith("legacy"):
            planes = _bilinear(picture, self.size, half_pixels=self.resize == "legacy_pytorch")
        else:
            planes = bicubic(np.ascontiguousarray(picture), self.size, self.size)
        normalise(planes, self.mean, self.std)
        return torch.from_numpy(planes)


def _bilinear(picture: np.ndarray, size: int, half_pixels: bool) -> np.ndarray:
    """(height, width, 3) uint8 to (3, size, size) float32, between the two nearest pixels each way.

    Pixel k of n lies at (k + ½) · length / n - ½, or at k · length / n without `half_pixels`, as TensorFlow 1 has it.
    """
    planes = picture.astype(np.float32).transpose(2, 0, 1)
    for axis in (1, 2):
        length = planes.shape[axis]
        places = np.arange(size, dtype=np.float32) * np.float32(length / size)
        if half_pixels:
            places = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(length / size) - np.float32(0.5)
        places = places.clip(0, length - 1)
        first = places.astype(np.intp)
        share = (places - first).reshape((-1, 1) if axis == 1 else (1, -1))
        near, far = planes.take(first, axis), planes.take(np.minimum(first + 1, length - 1), axis)
        planes = near + (far - near) * share
    return np.ascontiguousarray(planes)


def _by_pillow(picture: np.ndarray, size: int) -> np.ndarray:
    """(height, width, 3) uint8 to (3, size, size) float32."""
    height, width = picture.shape[:2]
    rows = max(STRIP_PIXELS // width, 1)
    if rows >= height:
        return _pillow(picture, size, size)
    narrow = np.empty((height, size, 3), np.float32)
    for top in range(0, height, rows):
        strip = picture[top : top + rows]
        narrow[top : top + rows] = _pillow(strip, len(strip), size).transpose(1, 2, 0)
    return _pillow(narrow, size, size)


def _pillow(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    channels = [Image.fromarray(np.ascontiguousarray(picture[..., c], dtype=np.float32)) for c in range(3)]
    return np.stack([np.array(channel.resize((width, height), Image.Resampling.BICUBIC)) for channel in channels])


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """A view of (height, width, 3) the right way up, by its EXIF orientation, 1 to 8."""
    return np.flip(picture.swapaxes(0, 1) if orientation > 4 else picture, FLIPS[orientation])


def cropped(picture: np.ndarray, crop: str, key: str) -> np.ndarray:
    height, width = picture.shape[:2]
    side = min(height, width)
    if crop == "none" or height == width:
        return picture
    if crop == "center":
        top, left = (height - side) // 2, (width - side) // 2
    else:
        # Placed by the image's name rather than by a generator, so that any worker crops alike.
        draw = int.from_bytes(hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:8], "big")
        top, left = draw % (height - side + 1), draw % (width - side + 1)
    return picture[top : top + side, left : left + side]
