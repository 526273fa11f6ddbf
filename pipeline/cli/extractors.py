"""The command that lists extractors and shows the layers of a network.

    python -m pipeline.extractors list                     # the extractors of conf/extractor
    python -m pipeline.extractors list torchvision         # the models of a library
    python -m pipeline.extractors show dino_vit_base       # its layers and their neurons
    python -m pipeline.extractors show timm:resnet18 --all # every module that could be a layer

`show` builds the network with random weights and runs a blank image through it. Nothing is downloaded.
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
from extractors.trial import describe_left_out
from pipeline.config.networks import known_extractors, named_extractor
from pipeline.errors import UserError
from pipeline.terminal import lenient, plain

WIDE = 160
"""Width of the output in characters where there is no terminal, so that no text is cut."""
LISTED = ("timm", "torchvision", "open_clip")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code. `arguments` are by default those of the process."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.extractors", description="Ask about extractors.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the extractors of conf/extractor, or the models of a library")
    listing.add_argument("source", nargs="?", choices=LISTED)
    shown = commands.add_parser("show", help="the layers of a network")
    shown.add_argument("name", help=f"a name of conf/extractor, a timm model, or SOURCE:MODEL ({', '.join(SOURCES)})")
    shown.add_argument("--all", action="store_true", help="every module that could be a layer")
    options = parser.parse_args(arguments)
    lenient()
    console = plain(width=None if sys.stdout.isatty() else WIDE)
    try:
        if options.command == "show":
            _show(console, options.name, options.all)
        elif options.source:
            for name in names(options.source):
                console.print(name, soft_wrap=True, highlight=False)
        else:
            console.print(_table())
    except (UserError, ExtractorError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _table() -> Table:
    table = Table("extractor", "source", "model", "size", "licence")
    for name in known_extractors():
        config = named_extractor(name)
        size = config.preprocess.get("size") or "its own"
        table.add_row(name, config.source, config.model, str(size), config.licence)
    return table


def _show(console: Console, name: str, every_module: bool) -> None:
    config = named_extractor(name, weights="random")
    config = replace(config, preprocess=_sized(config))
    extractor = build(replace(config, layers="all", tokens="all") if every_module else config)
    console.print(
        f"{extractor.name}: {config.source} {config.model}, {len(extractor.layers)} layers, "
        f"{sum(extractor.layers.values()):,} neurons; {extractor.preprocess.id}\n"
        f"weights {config.pretrained}; licence {extractor.licence or 'not stated'}"
        + (
            f"\nleft out, since they cannot be measured: {describe_left_out(extractor.left_out)}"
            if extractor.left_out
            else ""
        ),
        soft_wrap=True,
        highlight=False,
    )
    table = Table("layer", "module", "neurons", "positions")
    for layer, positions in _positions(extractor).items():
        table.add_row(layer, extractor.modules[layer], str(extractor.layers[layer]), str(positions))
    console.print(table)


def _sized(config: ExtractorConfig) -> dict[str, object]:
    """The preprocessing of an extractor. A user's own network may lack a size, mean or std: it gets one here."""
    preprocess = {key: value for key, value in config.preprocess.items() if value is not None}
    if config.source in LISTED:
        return preprocess
    return {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3} | preprocess


def _positions(extractor: Extractor) -> dict[str, int]:
    """The number of positions of an image in each layer, in the order in which the layers run."""
    positions: dict[str, int] = {}
    size = extractor.preprocess.size
    extractor(torch.zeros(1, 3, size, size), lambda layer, activations: positions.update({layer: activations.shape[1]}))
    return positions


if __name__ == "__main__":
    sys.exit(main())
