"""What every measurement has in common: figures with their spread, and the pictures to measure on.

python -m bench.extract                   # one table; `make bench` runs all and keeps bench/results.json
"""

from __future__ import annotations

import io
import itertools
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from pipeline.data.demo import CUT, pictures

ROUNDS = 5


class Figure(TypedDict):
    """A median with the smallest and largest of its repetitions."""

    value: float
    spread: list[float]
    unit: str


Figures = dict[str, Figure]


def figure(values: Sequence[float], unit: str) -> Figure:
    return {"value": statistics.median(values), "spread": [min(values), max(values)], "unit": unit}


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Pairwise, for measurements that took turns."""
    return [a / b for a, b in zip(mine, theirs, strict=True)]


def seconds(action: Callable[..., object], *arguments: Any) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def table(figures: Figures) -> str:
    rows = [
        (name, f"{f['value']:.4g}", "{:.4g} – {:.4g}".format(*f["spread"]), f["unit"]) for name, f in figures.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def jpegs(width: int = 500, height: int = 375) -> Iterator[bytes]:
    """Photographs without end, all different, as JPEGs of quality 90: cuts of the demo's pictures."""
    cuts = [picture.convert("RGB") for name in CUT for picture, _ in itertools.islice(pictures(name), 40)]
    draw = np.random.default_rng(0)
    while True:
        for picture in cuts:
            tilted = picture.rotate(float(draw.uniform(-4, 4)), Image.Resampling.BILINEAR)
            buffer = io.BytesIO()
            tilted.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            yield buffer.getvalue()


def tar(path: Path, images: Sequence[bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for index, data in enumerate(images):
            member = tarfile.TarInfo(f"{index:06d}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
