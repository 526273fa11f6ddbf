"""Print the report at the end of a run: the counts, the matrices, the place of the site, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.stages.context import RunContext
from pipeline.storage.urls import redact
from pipeline.terminal import lenient

MAX_SHOWN = 12
"""Datasets of a matrix that are printed. The site shows all."""


def print_counts(runs: Sequence[RunContext], console: Console) -> None:
    """Print the images counted and skipped of every dataset of the command, with the reasons."""
    lenient(console.file)
    several = len({run.extractor.name for run in runs}) > 1
    table = Table(box=None, pad_edge=False)
    for column in ("dataset", *["extractor"] * several, "images", "skipped", "reasons", "damaged", "fingerprint"):
        number = column in ("images", "skipped", "damaged")
        table.add_column(column, overflow="fold", header_style="dim", justify="right" if number else "left")
    remarks = []
    for run in runs:
        m = run.store.manifest(run.dataset.name, run.extractor.name, run.spec().id)
        if m is not None:
            reasons = ", ".join(f"{count} {reason}" for reason, count in m["skipped_by_reason"].items())
            names = (m["dataset"], *[m["extractor"]] * several)
            cells = (*names, m["images"], m["skipped"], reasons or "-", m["damaged_shards"], m["fingerprint"])
            table.add_row(*(Text(redact(str(cell))) for cell in cells))
            if (counts := m.get("noticed")) and (words := noticed(counts, run.extractor.preprocess)):
                remarks.append(f"{', '.join(names)}: {words}")
    if table.row_count:
        console.print(table)
    for remark in remarks:
        console.print(remark, highlight=False, soft_wrap=True)


counted = print_counts
"""The former name of `print_counts`."""


def noticed(counts: Mapping[str, int], preprocess: Mapping[str, Any]) -> str:
    """Describe how many images had transparency, an EXIF rotation or another image in their sample, and what was
    done."""
    alpha, exif = preprocess.get("alpha") or "drop", preprocess.get("exif") or "ignore"
    words = []
    if count := counts.get("transparent"):
        shown = "dropped; extractor.preprocess.alpha=white shows them on white"
        done = shown if alpha == "drop" else f"shown on {alpha}"
        words.append(f"{count} with transparency ({done})")
    if count := counts.get("rotated"):
        done = "applied" if exif == "apply" else "ignored; extractor.preprocess.exif=apply turns them"
        words.append(f"{count} with an EXIF rotation ({done})")
    if count := counts.get("several"):
        words.append(f"{count} with another image in the same sample (both count; dataset.image_key=KEY names one)")
    if count := counts.get("archives"):
        words.append(f"{count} archive(s) inside archives (not read; unpack them)")
    return ", ".join(words)


def print_matrices(run: RunContext, console: Console) -> None:
    """Print the matrices of the run's extractor."""
    distances = run.store.get_distances(run.extractor.name, run.spec().id)
    if distances is not None and "compare" in run.settings.stages:
        for metric in ("emd", "fd"):
            if metric in distances:
                console.print()
                console.print(f"{metric.upper()} ({distances[metric].attrs['units']}), {run.extractor.name}")
                console.print(matrix(distances, metric, run.dataset.name))


def print_site(run: RunContext, console: Console) -> None:
    """Print the place of the site."""
    if "publish" in run.settings.stages:
        console.print(f"\nsite: {run.settings.catalogue.rstrip('/')}/site/index.html", soft_wrap=True)


def print_failures(failures: Sequence[tuple[str, str]], console: Console) -> None:
    """Print what failed, and the reasons."""
    if failures:
        table = Table(box=None, pad_edge=False, title=f"{len(failures)} failed", title_justify="left")
        for column in ("failed", "reason"):
            table.add_column(column, overflow="fold", header_style="dim")
        for what, why in failures:
            table.add_row(Text(redact(what)), Text(redact(why)))
        console.print()
        console.print(table)


def matrix(distances: xr.Dataset, metric: str, reference: str) -> Table:
    """The distances over all layers as a table, of all datasets or of those nearest to `reference`.

    Columns have the numbers of the rows instead of names, so that the table fits a narrow terminal.
    """
    values = distances[f"{metric}_overall"]
    names = [str(name) for name in values["dataset"].to_numpy()]
    if len(names) > MAX_SHOWN and reference in names:
        row = values.sel(dataset=reference)
        names = [str(name) for name in row.sortby(row)["other"].to_numpy()]
    names = names[:MAX_SHOWN]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for number in range(1, len(names) + 1):
        table.add_column(str(number), justify="right", header_style="dim")
    for number, name in enumerate(names, 1):
        cells = (float(values.sel(dataset=name, other=other)) for other in names)
        table.add_row(f"{number} {name}", *(f"{cell:.4g}" for cell in cells))
    if len(values["dataset"]) > len(names):
        table.caption = f"the {len(names)} nearest to {reference} of {values.sizes['dataset']} datasets"
    return table
