"""The table of families in docs/extractors.md: default layers of the smallest network of every family of timm.

    python -m tests.helpers.families              # makes it anew, in about ten minutes

A family is a file of `timm.models`. Its smallest network is the one with the fewest parameters.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import timm
import torch

from extractors import ExtractorError, build
from pipeline.config.networks import named_extractor

DOCS = Path(__file__).parents[2] / "docs" / "extractors.md"
LARGEST = 500
"""Millions of parameters; what is larger is not tried, and the table says so."""
HEAD = "| family | smallest network | million parameters | layers | left out, and why |\n|---|---|---|---|---|\n"
ROW = re.compile(r"^\| (\w+) \| `(\w+)` \| ([\d.]+) \| (.*)$", re.MULTILINE)


def written() -> dict[str, tuple[str, float, str]]:
    """Of each family in docs/extractors.md its network, millions of parameters, and what follows in its row."""
    text = DOCS.read_text().partition(HEAD)[2]
    return {family: (model, float(size), rest) for family, model, size, rest in ROW.findall(text)}


def smallest(family: str) -> tuple[str, float]:
    """The network of a family with the fewest parameters, and how many millions those are; none is given memory."""
    sizes = {}
    for model in timm.list_models(module=family):
        with torch.device("meta"):
            sizes[model] = sum(parameter.numel() for parameter in timm.create_model(model).parameters()) / 1e6
    model = min(sizes, key=lambda name: (sizes[name], name))
    return model, round(sizes[model], 1)


def tried(model: str, size: float) -> str:
    """What follows in the row of a network, which is made untrained and run on one image."""
    if size > LARGEST:
        return f"– | not tried: more than {LARGEST} million parameters |"
    try:
        extractor = build(named_extractor(f"timm:{model}", weights="random"))
    except ExtractorError as error:
        return f"– | refused: {error} |"
    left_out = "; ".join(
        dict.fromkeys(
            f"`{_pattern(name)}` {each.reason}"
            + "".join(f", instead `{_pattern(inside)}`" for inside in dict.fromkeys(map(_pattern, each.instead)))
            for name, each in extractor.left_out.items()
        )
    )
    return f"{len(extractor.layers)} | {left_out} |"


def _pattern(name: str) -> str:
    return re.sub(r"\d+(?=\.|$)", "*", name)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    table = HEAD
    for each in timm.list_modules():
        network, millions = smallest(each)
        table += f"| {each} | `{network}` | {millions} | {tried(network, millions)}\n"
        sys.stdout.write(f"{each}\n")
    before, _, after = DOCS.read_text().partition(HEAD)
    DOCS.write_text(before + table + ROW.sub("", after).lstrip("\n"))
