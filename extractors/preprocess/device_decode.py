"""JPEGs decoded and made the network's input on the device: on CUDA by nvJPEG, where there is one its hardware decoder.

tensors = device_inputs(files, keys, preprocess, "cuda")      # (3, size, size) float32 there, or None
tensors = device_inputs(files, keys, preprocess, "cpu")       # the same way, with libjpeg-turbo

None is what another decoder has to take: other formats, JPEGs of rare kinds, broken or huge ones. Pixels differ
from those of libjpeg-turbo by rounding and by how colours are spread, so this way has a preprocessing id of its own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from extractors.preprocess.transform import FLIPS, Preprocess, cropped

MAX_PIXELS = 1 << 25
"""Larger pictures are not for the device's memory: as floating-point numbers this one takes 400 MB."""
GROUP_PIXELS = 1 << 28
"""Pixels decoded in one go, 0.8 GB."""
MAX_SCANS = 32
"""Usual progressive JPEGs have ten scans; each goes over all pixels and costs hardly a byte."""
FRAMES = {0xC0, 0xC1, 0xC2}
"""Markers of frames that are baseline, extended and progressive, coded after Huffman."""
ADOBE = 0xEE


def _smallest() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    return buffer.getvalue()


SMALLEST = _smallest()
"""What any device that decodes JPEGs can decode."""


def device_inputs(
    files: Sequence[bytes],
    keys: Sequence[str],
    preprocess: Preprocess,
    device: torch.device | str,
    orientations: Sequence[int] | None = None,
) -> list[torch.Tensor | None]:
    """What `preprocess` makes of each file's picture, on the device: (3, size, size) float32, or None.

    `keys` name the images: they place random crops. `orientations` are what their EXIF says, 1 to 8, which
    `exif=apply` needs; without it they are ignored. Raises `ValueError` where they are missing.
    """
    if preprocess.exif == "ignore":
        orientations = [1] * len(files)
    elif orientations is None:
        raise ValueError("exif=apply needs the orientations of the files")
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    made: list[torch.Tensor | None] = []
    for picture, key, orientation in zip(decode_jpegs(files, device), keys, orientations, strict=True):
        if picture is None:
            made.append(None)
            continue
        rows: Any = picture.permute(1, 2, 0)  # (height, width, 3), as pictures in NumPy
        rows = (rows.swapaxes(0, 1) if orientation > 4 else rows).flip(FLIPS[orientation])
        rows = cropped(rows, preprocess.crop, key)
        planes = rows.permute(2, 0, 1)[None].float()
        size = (preprocess.size, preprocess.size)
        grey = interpolate(planes, size, mode="bicubic", antialias=True)[0]
        made.append(grey.clamp_(0, 255).div_(255).sub_(mean).div_(std))
    return made


def decode_jpegs(files: Sequence[bytes], device: torch.device | str) -> list[torch.Tensor | None]:
    """(3, height, width) uint8 on the device of each file, EXIF rotation ignored; None where it cannot be had."""
    pictures: list[torch.Tensor | None] = [None] * len(files)
    group: list[int] = []
    pixels = 0
    for i, data in enumerate(files):
        file_pixels = _pixels_of_plain_jpeg(data)
        if group and pixels + file_pixels > GROUP_PIXELS:
            _decode_into(pictures, group, files, device)
            group, pixels = [], 0
        if file_pixels:
            group.append(i)
            pixels += file_pixels
    _decode_into(pictures, group, files, device)
    return pictures


def _decode_into(
    pictures: list[torch.Tensor | None], group: list[int], files: Sequence[bytes], device: torch.device | str
) -> None:
    for i, picture in zip(group, _decoded([files[i] for i in group], device), strict=True):
        pictures[i] = picture


def _decoded(files: list[bytes], device: torch.device | str) -> list[torch.Tensor | None]:
    if not files:
        return []
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    try:
        return list(decode_jpeg(encoded, ImageReadMode.RGB, device=device))
    except torch.OutOfMemoryError:
        raise  # a fault of the machine: it must not change which way a picture goes
    except RuntimeError:  # one broken file fails them all: find it by halves
        if len(files) == 1:
            if files[0] != SMALLEST:
                _decoded([SMALLEST], device)  # a device that decodes nothing is no fault of the file's
                return [None]
            raise
    half = len(files) // 2
    return _decoded(files[:half], device) + _decoded(files[half:], device)


def _pixels_of_plain_jpeg(data: bytes) -> int:
    """Pixels of a JPEG of which every decoder makes the same picture: grey or YCbCr of 8 bits, whole, of usual size
    and effort. 0 of anything else."""
    if data[:3] != b"\xff\xd8\xff" or not data.endswith(b"\xff\xd9") or data.count(b"\xff\xda") > MAX_SCANS:
        return 0
    at = 2
    while at + 18 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == ADOBE and data[at + 4 : at + 9] == b"Adobe" and data[at + 15] == 0:
            return 0  # its colours are RGB or CMYK
        if marker in FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            components = data[at + 9]
            letters = bytes(data[at + 10 + 3 * i] for i in range(3)) if components == 3 else b""
            usual = data[at + 4] == 8 and components in (1, 3) and letters != b"RGB"
            return height * width if usual and height * width <= MAX_PIXELS else 0
        at += 2 + length
    return 0
