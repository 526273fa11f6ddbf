"""What consumers open: a catalogue, read-only; no Ray and no Hydra needed.

    cat = open_catalogue("catalogue")         # a folder or any fsspec URL
    cat.index()                               # pandas.DataFrame, a row per VDNA
    v = cat.vdna("demo_digits", "efficientnet_lite0")
    cat.distances("efficientnet_lite0", "emd")          # xarray.DataArray (dataset, other, layer)
    cat.nearest("demo_digits", "efficientnet_lite0")    # the datasets most like it

On the command line: `python -m pipeline.catalogue {list,show,nearest,export,import,ranges} …`
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from distributions import VDNA, IncompatibleError
from pipeline import fid_files, hub, seed_files
from pipeline.errors import DamagedError, UserError
from pipeline.manifests import NAME
from pipeline.store import Store


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.catalogue", description="Ask a catalogue.")
    parser.add_argument("--catalogue", default="catalogue", help="folder or URL (default: ./catalogue)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every VDNA in it")
    for name, text in (("show", "everything known of one VDNA"), ("nearest", "the datasets most like one")):
        command = commands.add_parser(name, help=text)
        command.add_argument("dataset")
        command.add_argument("extractor", nargs="?", default="efficientnet_lite0")
        if name == "nearest":
            command.add_argument("--metric", default="emd", choices=("emd", "nfd", "fd"))
            command.add_argument("-k", type=int, default=10, choices=range(1, 10_001), metavar="1..10000")
    export = commands.add_parser("export", help="write a VDNA as files of the seed library, or as FID statistics")
    export.add_argument("dataset")
    export.add_argument("extractor")
    export.add_argument("out", help="path and name of the files, without an ending; or hf:[datasets/]OWNER/NAME/FILE")
    export.add_argument("--format", default="vdna", choices=("vdna", "fid"))
    export.add_argument("--distribution", default="histogram-1000", help="of format vdna")
    export.add_argument("--layer", default=fid_files.LAYER, help="of format fid")
    bring = commands.add_parser("import", help="add a VDNA from files of the seed library, or from FID statistics")
    bring.add_argument("file", help="NAME.json beside NAME.npz, or an .npz with mu and sigma; or hf:…")
    bring.add_argument("--name", required=True, help="the dataset's name in the catalogue")
    bring.add_argument("--format", default="vdna", choices=("vdna", "fid"))
    bring.add_argument("--ranges", help="the ranges file that a histogram was made with: a path, a URL or hf:…")
    bring.add_argument("--images", type=int, help="of format fid: how many images the statistics are of")
    bring.add_argument("--extractor", default=fid_files.EXTRACTOR, help="of format fid: which network made them")
    bring.add_argument("--layer", default=fid_files.LAYER, help="of format fid")
    axes = commands.add_parser("ranges", help="write an extractor's activation ranges, as the seed library has them")
    axes.add_argument("dataset", help="any dataset that was measured on them")
    axes.add_argument("extractor")
    axes.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    console = Console()
    try:
        if given.command == "import":
            _import(given)
            return 0
        cat = open_catalogue(given.catalogue)
        if given.command == "export":
            for written in _export(cat.vdna(given.dataset, given.extractor), given):
                console.print(written, soft_wrap=True)
        elif given.command == "ranges":
            _write_ranges(cat.vdna(given.dataset, given.extractor), given.out)
        elif given.command == "list":
            console.print(_table(cat.index()[[*COLUMNS]]))
        elif given.command == "show":
            said = cat.manifest(given.dataset, given.extractor)
            console.print_json(json.dumps({key: value for key, value in said.items() if key != "objects"}))
        else:
            near = cat.nearest(given.dataset, given.extractor, given.metric, given.k)
            console.print(_table(near.rename("distance").reset_index().rename(columns={"other": "dataset"})))
    except (UserError, IncompatibleError, DamagedError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _export(vdna: VDNA, given: argparse.Namespace) -> list[str]:
    """Write a VDNA as another program's files, here or in a repository of the hub; where."""
    with tempfile.TemporaryDirectory() as folder:
        afar = given.out.startswith(hub.HUB)
        path = Path(folder) / (given.out.rpartition("/")[2] or "nameless") if afar else Path(given.out)
        if given.format == "fid":
            files = [fid_files.write(vdna, path, given.layer)]
        else:
            files = seed_files.write(vdna, path, given.distribution)
        return hub.publish(files, given.out) if afar else list(map(str, files))


def _import(given: argparse.Namespace) -> None:
    if not NAME.fullmatch(given.name):
        raise UserError(f"--name {given.name}: use letters, digits, '.', '_' and '-' (at most 128), it names a folder")
    if given.format == "fid":
        if given.ranges:
            raise UserError("--ranges: statistics of FID have no histograms")
        if given.images is None:
            raise UserError("--format fid: the file does not say of how many images it is; give --images N")
        vdna = fid_files.read(hub.local(given.file), given.images, given.extractor, given.layer)
    else:
        if given.images is not None:
            raise UserError("--images: these files say it themselves; with --format fid they do not")
        axes = seed_files.read_ranges(given.ranges) if given.ranges else None
        vdna = seed_files.read(hub.local(given.file, ("json", "npz")), axes)
    facts = {
        "fingerprint": vdna.digest()[:16],
        "url": given.file,
        "description": f"imported from {given.file.rpartition('/')[2]}",
        "licence": "",
        "extractor_licence": "",
        "provenance": {"imported": [f"{given.format} files"]},
    }
    Store(given.catalogue).put_vdna(vdna, given.name, facts)


def _write_ranges(vdna: VDNA, path: Path) -> None:
    if vdna.spec.ranges is None:
        raise UserError("this VDNA has no histogram, whose axes these would be")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(vdna.spec.ranges.to_seed_json())


def _table(frame: pd.DataFrame) -> Table:
    table = Table(*map(str, frame.columns))
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row))
    return table


if __name__ == "__main__":
    sys.exit(main())
