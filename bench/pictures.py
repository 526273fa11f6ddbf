"""The pictures to measure on.

images = list(itertools.islice(jpegs(500, 375), 100))
tar(Path("images.tar"), images)
"""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.demo import CUT, pictures


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
