"""The command line of consumers and publishers: `python -m pipeline.catalogue --help`.

What reads and compares needs neither Ray nor torch; images of one's own, imports and exports need the network's part.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
from rich.table import Table

from distributions import IncompatibleError, View
from distributions.comparison import KINDS, Comparison
from distributions.plots import check_ending
from pipeline.catalogue.reader import CatalogueReader, open_catalogue
from pipeline.catalogue.targets import address
from pipeline.cli.options import Command, add, typed
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import Manifests
from pipeline.storage.disk import named
from pipeline.storage.urls import redact
from pipeline.terminal import Tracker, lenient, plain

console = plain()
MAX_ANSWERS = 10_000
"""Answers that can be asked for."""
DAMAGED = 1
"""Exit code of `verify` when something is damaged; 2 is that of a mistake."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    lenient()
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        typed(given)
        code = int(given.run(given) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough; what is left unsaid must not fail at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, IncompatibleError, DamagedError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {redact(str(error))}\n")
        return 2
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: this needs {error.name}: pip install '.[images]', in this program's folder\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.catalogue", description="Ask a catalogue.")
    parser.add_argument("--catalogue", default="catalogue", help="folder or URL (default: ./catalogue)")
    add(parser, "storage", "its store")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Command)

    command = commands.add_parser("list", help="every VDNA in it")
    command.set_defaults(run=_list)

    command = commands.add_parser("show", help="everything known of one VDNA")
    _dataset(command)
    command.add_argument("--version", type=int, help="an earlier one than the current")
    command.set_defaults(run=_show)

    command = commands.add_parser("nearest", help="the datasets most like one, or most like images of your own")
    command.add_argument("dataset", help="a dataset's name; or a folder, tar, zip, image or URL of images")
    command.add_argument("extractor", nargs="?")
    add(command, "source-storage", "the store of your images")
    command.add_argument("--metric", default="emd", choices=tuple(KINDS))
    command.add_argument("--layers", type=_names, help="some layers: blocks.4.0,blocks.5.0")
    command.add_argument("-k", type=_number, default=10)
    command.set_defaults(run=_nearest)

    command = commands.add_parser("compare", help="two datasets: in which layers and neurons they differ most")
    command.add_argument("a", help="a dataset's name, or a path or URL of images")
    command.add_argument("b", help="likewise")
    command.add_argument("extractor", nargs="?")
    add(command, "source-storage", "the store of your images")
    command.add_argument("--layers", type=_names, help="some layers: blocks.4.0,blocks.5.0")
    command.add_argument("--metrics", type=_names, default=list(KINDS), help="some distances: emd,nfd (default: all)")
    command.add_argument("-k", type=_number, default=5)
    command.add_argument("--save", metavar="FILE", help="a picture of it: FILE.svg or FILE.png")
    command.set_defaults(run=_compare)

    command = commands.add_parser("images", help="single images against a dataset: those least like it first")
    command.add_argument("images", help="a folder, tar, zip, image or URL")
    _dataset(command)
    add(command, "source-storage", "the store of your images")
    command.add_argument("-k", type=_number, default=10)
    command.set_defaults(run=_images)

    command = commands.add_parser("verify", help="read all that was published and say what is damaged")
    command.add_argument("url", nargs="?", help="instead of --catalogue")
    command.set_defaults(run=_verify)

    command = commands.add_parser("publish", help="copy what was published to a folder, a bucket or hf:datasets/…")
    command.add_argument("target")
    add(command, "target-storage", "the target's store")
    command.add_argument("--replace", action="store_true", help="even if it lists what this catalogue has not got")
    command.add_argument("--repair", action="store_true", help="read what is there, and write anew what is damaged")
    command.set_defaults(run=_publish)

    command = commands.add_parser("export", help="write a VDNA as files of the seed library, or as FID statistics")
    command.add_argument("dataset")
    command.add_argument("extractor")
    command.add_argument("out", help="path and name of the files, without an ending; or hf:[datasets/]OWNER/NAME/FILE")
    command.add_argument("--format", default="vdna", choices=("vdna", "fid"))
    command.add_argument("--distribution", default="histogram-1000", help="of format vdna")
    command.add_argument("--layer", default="block_3", help="of format fid")
    command.set_defaults(run=_export)

    command = commands.add_parser("import", help="add a VDNA from files of the seed library, or from FID statistics")
    command.add_argument("file", help="NAME.json beside NAME.npz, or an .npz with mu and sigma; or hf:…")
    command.add_argument("--name", required=True, help="the dataset's name in the catalogue")
    command.add_argument("--format", default="vdna", choices=("vdna", "fid"))
    command.add_argument("--ranges", help="the ranges file that a histogram was made with: a path, a URL or hf:…")
    command.add_argument("--images", type=int, help="of format fid: how many images the statistics are of")
    command.add_argument("--extractor", default="inception", help="of format fid: which network made them")
    command.add_argument("--layer", default="block_3", help="of format fid")
    command.set_defaults(run=_import)

    command = commands.add_parser("ranges", help="write an extractor's activation ranges, as the seed library has them")
    command.add_argument("dataset", help="any dataset that was measured on them")
    command.add_argument("extractor")
    command.add_argument("out")
    command.set_defaults(run=_ranges)
    return parser


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_ANSWERS:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 to {MAX_ANSWERS}")
    return int(text)


def _dataset(command: argparse.ArgumentParser) -> None:
    command.add_argument("dataset")
    command.add_argument("extractor", nargs="?", help="needed where it was measured with several")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _opened(given: argparse.Namespace) -> CatalogueReader:
    return open_catalogue(given.catalogue, **given.storage)


@contextmanager
def _told(title: str) -> Iterator[Tracker]:
    """What shows how far a measurement is: on stderr, live on a terminal, else in a few lines."""
    with Tracker(title, None, "images", plain(stderr=True), lambda line: sys.stderr.write(f"{line}\n")) as tracker:
        yield tracker


def _list(given: argparse.Namespace) -> None:
    frame = _opened(given).index()[["dataset", "extractor", "images", "skipped", "version", "created"]]
    _print(frame.assign(created=frame["created"].str[:10]))


def _show(given: argparse.Namespace) -> None:
    cat = _opened(given)
    said = cat.manifest(given.dataset, given.extractor or cat.extractor_of(given.dataset), version=given.version)
    console.print_json(json.dumps({key: value for key, value in said.items() if key != "objects"}))


def _nearest(given: argparse.Namespace) -> None:
    cat = _opened(given)
    options = {"metric": given.metric, "k": given.k, "layers": given.layers}
    near = cat.nearest(_of(cat, given.dataset, given), given.extractor, **options)
    _print(near.rename("distance").reset_index())


def _of(cat: CatalogueReader, named: str, given: argparse.Namespace, beside: str | None = None) -> str | View:
    """A dataset's name as it is; images of one's own are measured, to be compared with the dataset beside them."""
    if cat.has(named):
        return named
    _look(cat, named)
    from pipeline.measure.images import measured

    shown = redact(named)
    sys.stderr.write(f"measuring the images of {shown}, unless they were before\n")
    beside = beside if beside and cat.has(beside) else None
    with _told(shown) as tracker:
        found = measured(cat, named, given.extractor, beside, given.source_storage, tracker.images)
    if skipped := found.ledger.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        sys.stderr.write(f"{shown}: {found.images} images; left out: {reasons}\n")
    return found


def _compare(given: argparse.Namespace) -> None:
    cat = _opened(given)
    if given.save:
        _check_picture(given.save)
    a, b = (_of(cat, it, given, other) for it, other in ((given.a, given.b), (given.b, given.a)))
    found = cat.compare(a, b, given.extractor, given.layers, given.metrics)
    _say(found, given.k)
    if given.save:
        found.save(given.save)
        console.print(given.save, soft_wrap=True)


def _check_picture(path: str) -> None:
    """Refuse a picture that could not be written before its numbers are computed."""
    check_ending(path)
    if not (folder := named(path).parent).is_dir():
        raise UserError(f"--save {path}: there is no folder {folder}")


def _say(found: Comparison, k: int) -> None:
    """The layers and the neurons that differ most."""
    order = sorted(found.layers[found.metric], key=lambda layer: -found.layers[found.metric][layer])
    rows = [[layer, *(found.layers[metric][layer] for metric in found.metrics)] for layer in order]
    rows.append(["all layers", *(found.overall[metric] for metric in found.metrics)])
    _print(pd.DataFrame(rows, columns=["layer", *found.metrics]))
    if found.neurons:
        _print(pd.DataFrame(found.most(k), columns=["layer", "neuron", next(iter(found.neurons))]))


def _look(cat: CatalogueReader, given: str) -> None:
    """Say of a mistyped name that it is one, before the network's part is asked for."""
    if "://" in given or any(sign in given for sign in "*{") or named(given).exists():
        return
    close = difflib.get_close_matches(given, cat.index()["dataset"], 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {cat.describe()}"
    raise UserError(f"{given}: neither a dataset of this catalogue nor a path; {hint}")


def _images(given: argparse.Namespace) -> None:
    cat = _opened(given)
    _look(cat, given.images)
    from pipeline.measure.images import against

    with _told(redact(given.images)) as tracker:
        found = against(cat, given.images, given.dataset, given.extractor, given.source_storage, tracker.images)
    _print(found.head(given.k))


def _verify(given: argparse.Namespace) -> int:
    from pipeline.catalogue.copies import verify

    folder = Manifests(*address(given.url or given.catalogue, given.storage))
    objects, size, damaged = verify(folder, lambda number: console.print(f"{number} objects read"))
    for words in damaged:
        sys.stderr.write(f"{words}\n")
    verdict = f"{len(damaged)} damaged" if damaged else "all as they were written"
    console.print(f"{objects} objects, {size / 2**20:.1f} MiB: {verdict}")
    return DAMAGED if damaged else 0


def _publish(given: argparse.Namespace) -> None:
    from pipeline.catalogue.copies import copy
    from pipeline.catalogue.targets import target

    there = target(given.target, given.target_storage)
    source = Manifests(*address(given.catalogue, given.storage))
    readers = Manifests(*address(given.target, given.target_storage))
    objects, size = copy(source, there, None if given.replace else readers, readers if given.repair else None)
    console.print(f"{given.target}: {objects} objects and {size / 2**20:.1f} MiB were new", soft_wrap=True)


def _export(given: argparse.Namespace) -> None:
    from pipeline.cli.exchange import export

    vdna = _opened(given).vdna(given.dataset, given.extractor).load()
    for written in export(vdna, given.out, given.format, given.distribution, given.layer):
        console.print(written, soft_wrap=True)


def _import(given: argparse.Namespace) -> None:
    from pipeline.cli.exchange import bring

    bring(given)


def _ranges(given: argparse.Namespace) -> None:
    from pipeline.cli.exchange import write_ranges

    write_ranges(_opened(given).vdna(given.dataset, given.extractor), given.out)


def _print(frame: pd.DataFrame) -> None:
    """A table on a terminal; elsewhere lines with tabs, for other programs."""
    shown = frame.map(lambda value: f"{value:.6g}" if isinstance(value, float) else str(value))
    if not console.is_terminal:
        sys.stdout.write(shown.to_csv(sep="\t", index=False, lineterminator="\n"))
        return
    table = Table()
    for name in shown.columns:
        table.add_column(str(name), overflow="fold")
    for row in shown.itertuples(index=False):
        table.add_row(*map(redact, row))
    console.print(table)
