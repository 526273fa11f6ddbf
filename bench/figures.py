"""What every measurement has in common: figures with their spread, and how they are shown.

Needs Python alone, so that it serves on a bare GPU machine too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

ROUNDS = 5
VIT_B = {f"blocks.{i}": 768 for i in range(12)} | {"norm": 768}
"""Layers of a ViT-B, 9,984 neurons."""


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
