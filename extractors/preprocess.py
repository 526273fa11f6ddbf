"""From a decoded picture to the network's input.

preprocess = Preprocess(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
preprocess(picture)                       # (3, 224, 224) float32 from (height, width, 3) uint8
preprocess.id                             # "clean-224-none-mean0.5,0.5,0.5-std0.5,0.5,0.5"
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from extractors.layers import ExtractorError

RESIZES = ("clean", "clean-pillow")
CROPS = ("none", "center", "random")
STRIP_PIXELS = {"clean": 1 << 20, "clean-pillow": 1 << 24}
"""Pixels of a picture that are floating-point numbers at once: a larger one is made narrow in strips of rows. With
torch that is the same bits; Pillow takes columns first where that is less work, so strips may be off by one bit."""


@dataclass(frozen=True)
class Preprocess:
    """Optional square crop, bicubic antialiased resize to a square without quantisation, normalisation.

    `clean` resizes with torch and stays within 0.01 grey level of `clean-pillow`, which is Pillow on
    float32 channels: the bit-exact way of the seed library and of clean-fid (Parmar et al. 2022).
    A picture that is not square is squashed unless cropped.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "clean"
    crop: str = "none"

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ExtractorError(f"extractor.preprocess.resize={self.resize}: allowed are {', '.join(RESIZES)}")
        if self.crop not in CROPS:
            raise ExtractorError(f"extractor.preprocess.crop={self.crop}: allowed are {', '.join(CROPS)}")
        if self.size < 1:
            raise ExtractorError(f"extractor.preprocess.size={self.size}: must be at least 1 pixel")

    @property
    def id(self) -> str:
        """Name of the transformation; equal ids give equal inputs from equal pictures."""
        mean, std = (",".join(f"{value!r}" for value in values) for values in (self.mean, self.std))
        return f"{self.resize}-{self.size}-{self.crop}-mean{mean}-std{std}"

    @cached_property
    def _normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return mean, std

    def __call__(self, picture: np.ndarray, key: str = "") -> torch.Tensor:
        """(height, width, 3) uint8 to (3, size, size) float32. `key` names the image: it places a random crop."""
        grey = self._resized(_crop(picture, self.crop, key))
        mean, std = self._normalisation
        return grey.clamp_(0, 255).div_(255).sub_(mean).div_(std)

    def _resized(self, picture: np.ndarray) -> torch.Tensor:
        """(height, width, 3) uint8 to (3, size, size) float32, not clamped."""
        resize = _by_pillow if self.resize == "clean-pillow" else _by_torch
        height, width = picture.shape[:2]
        rows = max(STRIP_PIXELS[self.resize] // width, 1)
        if rows >= height:
            return resize(picture, self.size, self.size)
        narrow = np.empty((height, self.size, 3), np.float32)
        for top in range(0, height, rows):
            strip = picture[top : top + rows]
            narrow[top : top + rows] = resize(strip, len(strip), self.size).permute(1, 2, 0)
        return resize(narrow, self.size, self.size)


def _by_torch(picture: np.ndarray, height: int, width: int) -> torch.Tensor:
    planes = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    return torch.nn.functional.interpolate(planes, (height, width), mode="bicubic", antialias=True)[0]


def _by_pillow(picture: np.ndarray, height: int, width: int) -> torch.Tensor:
    channels = [Image.fromarray(np.ascontiguousarray(picture[..., c], dtype=np.float32)) for c in range(3)]
    resized = [np.array(channel.resize((width, height), Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(resized))


def _crop(picture: np.ndarray, crop: str, key: str) -> np.ndarray:
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
