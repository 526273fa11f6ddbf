"""The command that queries, publishes, imports and exports catalogues: `python -m pipeline.catalogue --help`.

Reading and comparing need neither Ray nor torch. Measuring images, importing and exporting need the extra `images`.
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
from pipeline.cli.options import Command, add, parse_storage
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import Manifests
from pipeline.storage.disk import expand_home
from pipeline.storage.urls import redact
from pipeline.terminal import Tracker, lenient, plain

console = plain()
MAX_ANSWERS = 10_000
"""Largest value of `-k`, the number of answers."""
DAMAGED = 1
"""Exit code of `verify` if an object is damaged. The exit code of a mistake is 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code. `arguments` are by default those of the process."""
    lenient()
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        parse_storage(options)
        code = int(options.run(options) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has closed the pipe; the flush at exit must not fail
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

    command = commands.add_parser("export", help="write a VDNA as files of the vdna library, or as FID statistics")
    command.add_argument("dataset")
    command.add_argument("extractor")
    command.add_argument("out", help="path and name of the files, without an ending; or hf:[datasets/]OWNER/NAME/FILE")
    command.add_argument("--format", default="vdna", choices=("vdna", "fid"))
    command.add_argument("--distribution", default="histogram-1000", help="of format vdna")
    command.add_argument("--layer", default="block_3", help="of format fid")
    command.set_defaults(run=_export)

    command = commands.add_parser("import", help="add a VDNA from files of the vdna library, or from FID statistics")
    command.add_argument("file", help="NAME.json beside NAME.npz, or an .npz with mu and sigma; or hf:…")
    command.add_argument("--name", required=True, help="the dataset's name in the catalogue")
    command.add_argument("--format", default="vdna", choices=("vdna", "fid"))
    command.add_argument("--ranges", help="the ranges file that a histogram was made with: a path, a URL or hf:…")
    command.add_argument("--images", type=int, help="of format fid: how many images the statistics are of")
    command.add_argument("--extractor", default="inception", help="of format fid: which network made them")
    command.add_argument("--layer", default="block_3", help="of format fid")
    command.set_defaults(run=_import)

    command = commands.add_parser("ranges", help="write an extractor's activation ranges as a file of the vdna library")
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


def _opened(options: argparse.Namespace) -> CatalogueReader:
    return open_catalogue(options.catalogue, **options.storage)


@contextmanager
def _progress(title: str) -> Iterator[Tracker]:
    """Show the progress of a measurement on stderr: a bar on a terminal, elsewhere a few lines."""
    with Tracker(title, None, "images", plain(stderr=True), lambda line: sys.stderr.write(f"{line}\n")) as tracker:
        yield tracker


def _list(options: argparse.Namespace) -> None:
    frame = _opened(options).index()[["dataset", "extractor", "images", "skipped", "version", "created"]]
    _print(frame.assign(created=frame["created"].str[:10]))


def _show(options: argparse.Namespace) -> None:
    cat = _opened(options)
    manifest = cat.manifest(
        options.dataset, options.extractor or cat.extractor_of(options.dataset), version=options.version
    )
    console.print_json(json.dumps({key: value for key, value in manifest.items() if key != "objects"}))


def _nearest(options: argparse.Namespace) -> None:
    cat = _opened(options)
    source = _measured(cat, options.dataset, options)
    near = cat.nearest(source, options.extractor, options.metric, options.k, layers=options.layers)
    _print(near.rename("distance").reset_index())


def _measured(cat: CatalogueReader, source: str, options: argparse.Namespace, beside: str | None = None) -> str | View:
    """The name of a dataset unchanged, or the VDNA of images. Images are measured like the dataset `beside`."""
    if cat.has(source):
        return source
    _check_source(cat, source)
    from pipeline.measure.images import measure_images

    shown = redact(source)
    sys.stderr.write(f"measuring the images of {shown}, unless they were before\n")
    beside = beside if beside and cat.has(beside) else None
    with _progress(shown) as tracker:
        vdna = measure_images(cat, source, options.extractor, beside, options.source_storage, tracker.images)
    if skipped := vdna.ledger.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        sys.stderr.write(f"{shown}: {vdna.images} images; left out: {reasons}\n")
    return vdna


def _compare(options: argparse.Namespace) -> None:
    cat = _opened(options)
    if options.save:
        _check_picture(options.save)
    a, b = (_measured(cat, x, options, y) for x, y in ((options.a, options.b), (options.b, options.a)))
    comparison = cat.compare(a, b, options.extractor, options.layers, options.metrics)
    _print_comparison(comparison, options.k)
    if options.save:
        comparison.save(options.save)
        console.print(options.save, soft_wrap=True)


def _check_picture(path: str) -> None:
    """Raise an error before the comparison is computed if its picture could not be written."""
    check_ending(path)
    if not (folder := expand_home(path).parent).is_dir():
        raise UserError(f"--save {path}: there is no folder {folder}")


def _print_comparison(comparison: Comparison, k: int) -> None:
    """Print the distances of all layers, the farthest layer first, and of the `k` neurons that differ most."""
    by_layer = comparison.layers
    order = sorted(by_layer[comparison.metric], key=lambda layer: -by_layer[comparison.metric][layer])
    rows = [[layer, *(by_layer[metric][layer] for metric in comparison.metrics)] for layer in order]
    rows.append(["all layers", *(comparison.overall[metric] for metric in comparison.metrics)])
    _print(pd.DataFrame(rows, columns=["layer", *comparison.metrics]))
    if comparison.neurons:
        _print(pd.DataFrame(comparison.most(k), columns=["layer", "neuron", next(iter(comparison.neurons))]))


def _check_source(cat: CatalogueReader, source: str) -> None:
    """Raise `UserError` for a mistyped name before the extra `images` is imported."""
    if "://" in source or any(sign in source for sign in "*{") or expand_home(source).exists():
        return
    close = difflib.get_close_matches(source, cat.index()["dataset"], 1)
    hint = f"did you mean {close[0]}?" if close else f"there are {cat.describe()}"
    raise UserError(f"{source}: neither a dataset of this catalogue nor a path; {hint}")


def _images(options: argparse.Namespace) -> None:
    cat = _opened(options)
    _check_source(cat, options.images)
    from pipeline.measure.images import rank_images

    with _progress(redact(options.images)) as tracker:
        table = rank_images(
            cat, options.images, options.dataset, options.extractor, options.source_storage, tracker.images
        )
    _print(table.head(options.k))


def _verify(options: argparse.Namespace) -> int:
    from pipeline.catalogue.copies import verify

    folder = Manifests(*address(options.url or options.catalogue, options.storage))
    objects, size, damaged = verify(folder, lambda number: console.print(f"{number} objects read"))
    for words in damaged:
        sys.stderr.write(f"{words}\n")
    verdict = f"{len(damaged)} damaged" if damaged else "all as they were written"
    console.print(f"{objects} objects, {size / 2**20:.1f} MiB: {verdict}")
    return DAMAGED if damaged else 0


def _publish(options: argparse.Namespace) -> None:
    from pipeline.catalogue.copies import copy
    from pipeline.catalogue.targets import target

    destination = target(options.target, options.target_storage)
    source = Manifests(*address(options.catalogue, options.storage))
    readers = Manifests(*address(options.target, options.target_storage))
    objects, size = copy(source, destination, None if options.replace else readers, readers if options.repair else None)
    console.print(f"{options.target}: {objects} objects and {size / 2**20:.1f} MiB were new", soft_wrap=True)


def _export(options: argparse.Namespace) -> None:
    from pipeline.cli.exchange import export_vdna

    vdna = _opened(options).vdna(options.dataset, options.extractor).load()
    for path in export_vdna(vdna, options.out, options.format, options.distribution, options.layer):
        console.print(path, soft_wrap=True)


def _import(options: argparse.Namespace) -> None:
    from pipeline.cli.exchange import import_vdna

    import_vdna(options)


def _ranges(options: argparse.Namespace) -> None:
    from pipeline.cli.exchange import write_ranges

    write_ranges(_opened(options).vdna(options.dataset, options.extractor), options.out)


def _print(frame: pd.DataFrame) -> None:
    """Print a table on a terminal, and tab-separated lines elsewhere."""
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
