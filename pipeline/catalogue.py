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
from typing import Any

import pandas as pd
import xarray as xr
from rich.console import Console
from rich.table import Table

from distributions import VDNA, IncompatibleError
from pipeline import fid_files, hub, seed_files
from pipeline.errors import DamagedError, UserError
from pipeline.store import NAME, Store

COLUMNS = ("dataset", "extractor", "images", "skipped", "damaged_shards", "shards", "distributions", "ranges")
MORE = (
    *("preprocessing", "precision", "architecture", "weights", "clamped_share", "not_finite"),
    *("spec", "fingerprint", "digest", "created", "licence"),
)


class Catalogue:
    """Read-only view of a catalogue."""

    def __init__(self, url: str, **storage: Any) -> None:
        self._store = Store(url, storage)
        if not self._store.names("vdnas"):
            raise UserError(f"catalogue={url}: there is no catalogue here")

    def index(self) -> pd.DataFrame:
        """A row per VDNA: what it is of, how complete it is and what it was made with."""
        rows = [{**m, "distributions": " ".join(m["distributions"])} for m in self._store.manifests()]
        return pd.DataFrame(rows, columns=[*COLUMNS, *MORE])

    def manifest(self, dataset: str, extractor: str, spec: str | None = None) -> dict[str, Any]:
        """Everything the catalogue says of one VDNA; the newest, where several specs were measured."""
        found = [m for m in self._store.manifests() if m["dataset"] == dataset and m["extractor"] == extractor]
        found = [m for m in found if spec in (None, m["spec"])]
        if not found:
            raise UserError(f"no VDNA of dataset {dataset} with extractor {extractor}; there are {self._known()}")
        return found[-1]

    def vdna(self, dataset: str, extractor: str, spec: str | None = None) -> VDNA:
        """The VDNA itself; the newest, where several specs were measured."""
        return self._store.get_vdna(self.manifest(dataset, extractor, spec))

    def distances(self, extractor: str, metric: str, spec: str | None = None) -> xr.DataArray:
        """`emd`, `nfd` or `fd` between all datasets, (dataset, other, layer); `.overall` is over all layers.

        Of several specs of an extractor, the one with the most datasets, then the newest.
        """
        specs = {
            m["spec"] for m in self._store.manifests() if m["extractor"] == extractor and spec in (None, m["spec"])
        }
        known = [(s, m) for s in specs if (m := self._store.distances_manifest(extractor, s)) is not None]
        if not known:
            raise UserError(f"no distances for extractor {extractor}; there are VDNAs {self._known()}")
        largest = max(known, key=lambda pair: (len(pair[1]["datasets"]), pair[1]["created"]))[0]
        distances = self._store.get_distances(extractor, largest)
        assert distances is not None  # its manifest was there
        if metric not in distances:
            metrics = [str(name) for name in distances.data_vars if not str(name).endswith("_overall")]
            raise UserError(f"no metric {metric} for {extractor}; there is {', '.join(metrics)}")
        return distances[metric].assign_coords(overall=distances[f"{metric}_overall"])

    def nearest(self, dataset: str, extractor: str, metric: str = "emd", k: int = 10) -> pd.Series[float]:
        """The other datasets by distance, the most like first."""
        self.manifest(dataset, extractor)
        overall = self.distances(extractor, metric).overall
        if dataset not in overall["dataset"]:
            raise UserError(
                f"{dataset} is not in the matrix of {extractor}: run it again with stages=[compare]; what was "
                "imported is compared one by one: emd(cat.vdna(…), cat.vdna(…))"
            )
        row = overall.sel(dataset=dataset).drop_sel(other=dataset).to_series()
        ordered: pd.Series[float] = row.sort_values().head(k)
        return ordered

    def _known(self) -> str:
        return ", ".join(f"{m['dataset']} · {m['extractor']}" for m in self._store.manifests()[:20]) or "none"


def open_catalogue(url: str, **storage: Any) -> Catalogue:
    """Open a catalogue at a path or fsspec URL; `storage` are fsspec options. `UserError` if there is none."""
    return Catalogue(url, **storage)


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
