"""Bicubic resize of a picture, antialiased, to floating-point grey levels, in one walk over its rows.

    planes = bicubic(picture, 224, 224)       # (3, 224, 224) float32 from (height, width, 3) uint8

A picture of any size needs no more memory than some of its rows as floating-point numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from distributions.kernels.compiled import compiled

SHARPNESS = -0.5
"""The cubic's free parameter, as in Pillow (Keys 1981)."""
GROUP = 16
"""New rows made at once: a vector register full."""


def bicubic(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """(rows, columns, 3) uint8, contiguous, to (3, height, width) float32, neither rounded nor clipped.

    Where a side shrinks, the cubic is as much wider as the side is longer: what Pillow does to channels
    of floating-point numbers, up to rounding (less than a thousandth of a grey level).
    """
    rows, columns = _taps(picture.shape[0], height), _taps(picture.shape[1], width)
    planes = np.empty((3, height, width), np.float32)
    _resize(picture.reshape(len(picture), -1), *rows, *columns, planes)
    return planes


def normalise(planes: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> None:
    """Grey levels (3, height, width) float32, clipped to [0, 255], to (share of 255 - mean) / std, in place."""
    _normalise(planes, np.array(mean, np.float32), np.array(std, np.float32))


@lru_cache(256)
def _taps(size: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of the `wanted` new pixels: the first old one it sees, and the weights of that one and the next ones."""
    scale = size / wanted
    spread = max(scale, 1.0)
    centres = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centres - 2 * spread + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + 2 * spread + 0.5).astype(np.int64), size)
    seen = np.arange((end - first).max())
    distance = np.abs((first[:, None] + seen + 0.5 - centres[:, None]) / spread)
    near = ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance**2 + 1
    far = SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    weights[seen >= (end - first)[:, None]] = 0.0
    return first, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@compiled()
def _resize(picture, first_row, row_weights, first_column, column_weights, planes):  # type: ignore[no-untyped-def]
    # New rows are made a group at a time, then laid side by side, so that both passes run along memory.
    height, width = planes.shape[1:]
    length, taps = picture.shape[1], column_weights.shape[1]
    rows = np.zeros((GROUP, length), np.float32)
    columns = np.zeros((length // 3 + taps) * 3 * GROUP, np.float32)  # taps without weight read beyond the edge
    pixel = np.empty(3 * GROUP, np.float32)
    for top in range(0, height, GROUP):
        group = min(GROUP, height - top)
        for y in range(group):
            row = rows[y]
            row[:] = 0
            for tap in range(row_weights.shape[1]):
                weight = row_weights[top + y, tap]
                if weight != 0:
                    old = picture[first_row[top + y] + tap]
                    for i in range(length):
                        row[i] += weight * np.float32(old[i])
        for i in range(length):
            for y in range(GROUP):
                columns[i * GROUP + y] = rows[y, i]
        for x in range(width):
            pixel[:] = 0
            for tap in range(taps):
                weight, at = column_weights[x, tap], (first_column[x] + tap) * 3 * GROUP
                old_column = columns[at : at + 3 * GROUP]
                for i in range(3 * GROUP):
                    pixel[i] += weight * old_column[i]
            for channel in range(3):
                for y in range(group):
                    planes[channel, top + y, x] = pixel[channel * GROUP + y]


@compiled(error_model="numpy")
def _normalise(planes, mean, std):  # type: ignore[no-untyped-def]
    for channel in range(3):
        flat = planes[channel].reshape(-1)
        for i in range(len(flat)):
            grey = min(max(flat[i], np.float32(0)), np.float32(255))
            flat[i] = (grey / np.float32(255) - mean[channel]) / std[channel]
