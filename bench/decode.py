"""From a JPEG's bytes to the network's input, on one core: ours, the vdna library's way, and with reduced decoding.

python -m bench.decode                    # a minute
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.figures import ROUNDS, Figures, figure, ratios, seconds, table
from bench.pictures import jpegs
from extractors import Preprocess
from pipeline.data.decode import decode

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vdna.utils.im import ResizeDataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL, LARGE = (500, 375), (4000, 3000)
FILES = {SMALL: 64, LARGE: 6}


def measure() -> Figures:
    torch.set_num_threads(1)
    figures: Figures = {}
    for size, count in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{index}.jpg" for index in range(count)]
            for path, data in zip(paths, jpegs(*size), strict=False):
                path.write_bytes(data)
            seeds = ResizeDataset(paths, size=(224, 224), norm_mean=MEAN, norm_std=STD)
            ways: dict[str, Callable[[int], object]] = {
                "seed": seeds.__getitem__,
                "clean": partial(_ours, Preprocess(224, MEAN, STD), paths),
                "reduced": partial(_ours, Preprocess(224, MEAN, STD, "reduced"), paths),
            }
            speeds: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(ROUNDS + 1):
                for name, way in ways.items():
                    taken = seconds(lambda: list(map(way, range(count))))  # noqa: B023  # called at once
                    if turn:
                        speeds[name].append(count / taken)
        figures |= {f"decode_{size[0]}_{name}": figure(taken, "images/s, one core") for name, taken in speeds.items()}
        figures[f"decode_{size[0]}_vs_seed"] = figure(ratios(speeds["clean"], speeds["seed"]), "times faster")
    return figures


def _ours(preprocess: Preprocess, paths: list[Path], index: int) -> torch.Tensor:
    return preprocess(decode(paths[index].read_bytes(), preprocess.least_side))


if __name__ == "__main__":
    print(table(measure()))
