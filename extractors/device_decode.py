"""JPEGs decoded and made the network's input on the device: on CUDA by nvJPEG, where there is one its hardware decoder.

tensors = device_inputs(files, keys, preprocess, "cuda")      # (3, size, size) float32 there, or None
tensors = device_inputs(files, keys, preprocess, "cpu")       # the same way, with libjpeg-turbo

None is what another decoder has to take: other formats, JPEGs of rare kinds, broken or huge ones. Pixels differ
from those of libjpeg-turbo by rounding and by how colours are spread, so this way has a preprocessing id of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from extractors.preprocess import Preprocess, cropped

MAX_PIXELS = 1 << 25
"""Larger pictures are not for the device's memory: as floating-point numbers this one takes 400 MB."""
MAX_SCANS = 32
"""Usual progressive JPEGs have ten scans; each goes over all pixels and costs hardly a byte."""
FRAMES = {0xC0, 0xC1, 0xC2}
"""Markers of frames that are baseline, extended and progressive, coded after Huffman."""
ADOBE = 0xEE


def device_inputs(
    files: Sequence[bytes], keys: Sequence[str], preprocess: Preprocess, device: torch.device | str
) -> list[torch.Tensor | None]:
    """What `preprocess` makes of each file's picture, on the device: (3, size, size) float32, or None.

    `keys` name the images: they place random crops.
    """
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    made: list[torch.Tensor | None] = []
    for picture, key in zip(decode_jpegs(files, device), keys, strict=True):
        if picture is None:
            made.append(None)
            continue
        rows: Any = picture.permute(1, 2, 0)  # (height, width, 3), as pictures in NumPy
        rows = cropped(rows, preprocess.crop, key)
        planes = rows.permute(2, 0, 1)[None].float()
        size = (preprocess.size, preprocess.size)
        grey = interpolate(planes, size, mode="bicubic", antialias=True)[0]
        made.append(grey.clamp_(0, 255).div_(255).sub_(mean).div_(std))
    return made


def decode_jpegs(files: Sequence[bytes], device: torch.device | str) -> list[torch.Tensor | None]:
    """(3, height, width) uint8 on the device of each file, EXIF rotation ignored; None where it cannot be had."""
    pictures: list[torch.Tensor | None] = [None] * len(files)
    taken = [i for i, data in enumerate(files) if _is_plain_jpeg(data)]
    for i, picture in zip(taken, _decoded([files[i] for i in taken], device), strict=True):
        pictures[i] = picture
    return pictures


def _decoded(files: list[bytes], device: torch.device | str) -> list[torch.Tensor | None]:
    if not files:
        return []
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    try:
        return list(decode_jpeg(encoded, ImageReadMode.RGB, device=device))
    except RuntimeError:  # one broken file fails them all: find it by halves
        if len(files) == 1:
            return [None]
    half = len(files) // 2
    return _decoded(files[:half], device) + _decoded(files[half:], device)


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether every decoder makes the same picture of it: grey or YCbCr of 8 bits, whole, of usual size and effort."""
    if data[:3] != b"\xff\xd8\xff" or not data.endswith(b"\xff\xd9") or data.count(b"\xff\xda") > MAX_SCANS:
        return False
    at = 2
    while at + 18 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == ADOBE and data[at + 4 : at + 9] == b"Adobe" and data[at + 15] == 0:
            return False  # its colours are RGB or CMYK
        if marker in FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            components = data[at + 9]
            letters = bytes(data[at + 10 + 3 * i] for i in range(3)) if components == 3 else b""
            usual = data[at + 4] == 8 and components in (1, 3) and letters != b"RGB"
            return usual and 0 < height * width <= MAX_PIXELS
        at += 2 + length
    return False
