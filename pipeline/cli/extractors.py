"""Which extractors there are, and which layers a network has.

    python -m pipeline.extractors list                     # those of conf/extractor
    python -m pipeline.extractors list torchvision         # the models of a library
    python -m pipeline.extractors show dino_vit_base       # its layers and their neurons
    python -m pipeline.extractors show timm:resnet18 --all # every module that could be a layer

`show` builds the network untrained and runs one image of noise through it: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from extractors import Extractor, ExtractorConfig, ExtractorError, build
from extractors.sources import SOURCES, names
from extractors.trial import said
from pipeline.config.networks import known_extractors, named_extractor
from pipeline.errors import UserError
from pipeline.terminal import lenient, plain

WIDE = 160
"""Columns where there is no terminal, so that nothing is cut."""
LISTED = ("timm", "torchvision", "open_clip")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.extractors", description="Ask about extractors.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the extractors of conf/extractor, or the models of a library")
    listing.add_argument("source", nargs="?", choices=LISTED)
    shown = commands.add_parser("show", help="the layers of a network")
    shown.add_argument("name", help=f"a name of conf/extractor, a timm model, or SOURCE:MODEL ({', '.join(SOURCES)})")
    shown.add_argument("--all", action="store_true", help="every module that could be a layer")
    given = parser.parse_args(arguments)
    lenient()
    console = plain(width=None if sys.stdout.isatty() else WIDE)
    try:
        if given.command == "show":
            _show(console, given.name, given.all)
        elif given.source:
            for name in names(given.source):
                console.print(name, soft_wrap=True, highlight=False)
        else:
            console.print(_known())
    except (UserError, ExtractorError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _known() -> Table:
    table = Table("extractor", "source", "model", "size", "licence")
    for name in known_extractors():
        config = named_extractor(name)
        size = config.preprocess.get("size") or "its own"
        table.add_row(name, config.source, config.model, str(size), config.licence)
    return table


def _show(console: Console, name: str, every: bool) -> None:
    config = named_extractor(name, weights="random")
    config = replace(config, preprocess=_sized(config))
    extractor = build(replace(config, layers="all", tokens="all") if every else config)
    console.print(
        f"{extractor.name}: {config.source} {config.model}, {len(extractor.layers)} layers, "
        f"{sum(extractor.layers.values()):,} neurons; {extractor.preprocess.id}\n"
        f"weights {config.pretrained}; licence {extractor.licence or 'not stated'}"
        + (f"\nleft out, since they cannot be measured: {said(extractor.left_out)}" if extractor.left_out else ""),
        soft_wrap=True,
        highlight=False,
    )
    table = Table("layer", "module", "neurons", "positions")
    for layer, positions in _positions(extractor).items():
        table.add_row(layer, extractor.modules[layer], str(extractor.layers[layer]), str(positions))
    console.print(table)


def _sized(config: ExtractorConfig) -> dict[str, object]:
    """Its preprocessing, with something where a network of one's own does not say what it takes."""
    said = {key: value for key, value in config.preprocess.items() if value is not None}
    if config.source in LISTED:
        return said
    return {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3} | said


def _positions(extractor: Extractor) -> dict[str, int]:
    """Positions of an image at which each layer has activations, in the order in which layers fire."""
    found: dict[str, int] = {}
    size = extractor.preprocess.size
    extractor(torch.zeros(1, 3, size, size), lambda layer, activations: found.update({layer: activations.shape[1]}))
    return found


if __name__ == "__main__":
    sys.exit(main())
