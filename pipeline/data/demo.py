"""Five small datasets of real pictures as WebDataset tars, for the demo and the tests.

    python -m pipeline.data.demo demo_data    # demo_data/demo_faces/demo_faces-00000.tar, …

The images are cut from the pictures inside the scikit-image and scikit-learn wheels. Each picture is used for one set
only, so no two sets share near-duplicates. The same wheels give the same tars. Existing sets are not written again.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image, ImageOps

from pipeline.errors import UserError
from pipeline.storage.disk import expand_home

SHARDS = 4
CUT = {
    "demo_photographs": (
        ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "china.jpg", "flower.jpg"],
        42,
    ),
    "demo_microscopy": (["ihc.png", "retina.jpg", "cell.png"], 98),
    "demo_textures": (["brick.png", "grass.png", "gravel.png"], 98),
}
"""For each set: the pictures that its images are cut from, and the number of cuts from each picture."""

SETS = (*CUT, "demo_digits", "demo_faces")
DIGITS = 300
FACES = 100


def write(folder: Path) -> None:
    """Write the sets that do not exist yet. A set appears when all its shards are complete."""
    for name in SETS:
        target = folder / name
        if target.is_dir():
            continue
        partial = folder / f".{name}.{os.getpid()}"
        partial.mkdir(parents=True)
        images = list(pictures(name))
        for shard in range(SHARDS):
            with webdataset.TarWriter(str(partial / f"{name}-{shard:05d}.tar"), mtime=0, user="", group="") as tar:
                for index in range(shard, len(images), SHARDS):
                    image, origin = images[index]
                    kind = "jpg" if index // SHARDS % 2 else "png"
                    tar.write({"__key__": f"{index:06d}", kind: _encoded(image, kind), "json": {"origin": origin}})
        partial.rename(target)


def pictures(name: str) -> Iterator[tuple[Image.Image, str]]:
    """The images of a set, in order, each with a description of its origin."""
    if name == "demo_digits":
        with gzip.open(_wheel("sklearn", "datasets/data/digits.csv.gz"), "rt") as file:
            for row, values in zip(range(DIGITS), csv.reader(file), strict=False):
                grey = np.array(values[:64], dtype=np.float64).reshape(8, 8) * (255 / 16)
                yield Image.fromarray(grey.astype(np.uint8)), f"scikit-learn digits, row {row}"
        return
    if name == "demo_faces":
        # The first hundred images of the array are faces, the others background. With their mirror images they are 200.
        for row, grey in enumerate(np.load(_wheel("skimage", "data/lfw_subset.npy"))[:FACES]):
            face = Image.fromarray((grey * 255).astype(np.uint8))
            yield face, f"scikit-image lfw_subset, row {row}"
            yield ImageOps.mirror(face), f"scikit-image lfw_subset, row {row}, mirrored"
        return
    files, cuts = CUT[name]
    for origin in files:
        package, folder = (
            ("sklearn", "datasets/images") if origin in ("china.jpg", "flower.jpg") else ("skimage", "data")
        )
        with Image.open(_wheel(package, f"{folder}/{origin}")) as opened:
            picture = opened.convert("L" if opened.mode == "L" else "RGB")
        draw = np.random.default_rng(sum(origin.encode()))
        for _ in range(cuts):
            side = int(draw.integers(112, 225))
            left = int(draw.integers(0, picture.width - side + 1))
            top = int(draw.integers(0, picture.height - side + 1))
            yield picture.crop((left, top, left + side, top + side)), f"{package} {origin}, {side} px at {left}, {top}"


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": 90} if kind == "jpg" else {}
    image.save(buffer, "JPEG" if kind == "jpg" else "PNG", **options)
    return buffer.getvalue()


def _wheel(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the demo's pictures are inside {package}: pip install '.[demo]', in this program's folder")
    return Path(spec.submodule_search_locations[0]) / name


if __name__ == "__main__":
    write(expand_home(sys.argv[1] if len(sys.argv) > 1 else "demo_data"))
