"""What a run ends with on the terminal: what was counted, the matrix, and where the site is."""

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
"""Datasets shown of a matrix; the site has them all."""


def counted(runs: Sequence[RunContext], console: Console) -> None:
    """Every dataset of the command: images counted and skipped, with the reasons."""
    lenient(console.file)
    several = len({run.settings.extractor.name for run in runs}) > 1
    table = Table(box=None, pad_edge=False)
    for column in ("dataset", *["extractor"] * several, "images", "skipped", "reasons", "damaged", "fingerprint"):
        number = column in ("images", "skipped", "damaged")
        table.add_column(column, overflow="fold", header_style="dim", justify="right" if number else "left")
    remarks = []
    for run in runs:
        settings = run.settings
        m = run.store.manifest(settings.dataset.name, settings.extractor.name, run.spec().id)
        if m is not None:
            reasons = ", ".join(f"{count} {reason}" for reason, count in m["skipped_by_reason"].items())
            names = (m["dataset"], *[m["extractor"]] * several)
            cells = (*names, m["images"], m["skipped"], reasons or "-", m["damaged_shards"], m["fingerprint"])
            table.add_row(*(Text(redact(str(cell))) for cell in cells))
            if (said := m.get("noticed")) and (words := noticed(said, settings.extractor.preprocess)):
                remarks.append(f"{', '.join(names)}: {words}")
    if table.row_count:
        console.print(table)
    for remark in remarks:
        console.print(remark, highlight=False, soft_wrap=True)


def noticed(said: Mapping[str, int], preprocess: Mapping[str, Any]) -> str:
    """How many images had transparency, an EXIF rotation or a neighbour in their sample, and what became of it."""
    alpha, exif = preprocess.get("alpha") or "drop", preprocess.get("exif") or "ignore"
    words = []
    if count := said.get("transparent"):
        shown = "dropped; extractor.preprocess.alpha=white shows them on white"
        done = shown if alpha == "drop" else f"shown on {alpha}"
        words.append(f"{count} with transparency ({done})")
    if count := said.get("rotated"):
        done = "applied" if exif == "apply" else "ignored; extractor.preprocess.exif=apply turns them"
        words.append(f"{count} with an EXIF rotation ({done})")
    if count := said.get("several"):
        words.append(f"{count} with another image in the same sample (both count; dataset.image_key=KEY names one)")
    if count := said.get("archives"):
        words.append(f"{count} archive(s) inside archives (not read; unpack them)")
    return ", ".join(words)


def compared(run: RunContext, console: Console) -> None:
    """All datasets of the extractor: the matrices."""
    settings = run.settings
    distances = run.store.get_distances(settings.extractor.name, run.spec().id)
    if distances is not None and "compare" in settings.stages:
        for metric in ("emd", "fd"):
            if metric in distances:
                console.print()
                console.print(f"{metric.upper()} ({distances[metric].attrs['units']}), {settings.extractor.name}")
                console.print(matrix(distances, metric, settings.dataset.name))


def published(run: RunContext, console: Console) -> None:
    """Where the site is."""
    if "publish" in run.settings.stages:
        console.print(f"\nsite: {run.settings.catalogue.rstrip('/')}/site/index.html", soft_wrap=True)


def failed(failures: Sequence[tuple[str, str]], console: Console) -> None:
    """What failed of a batch, and why."""
    if failures:
        table = Table(box=None, pad_edge=False, title=f"{len(failures)} failed", title_justify="left")
        for column in ("failed", "reason"):
            table.add_column(column, overflow="fold", header_style="dim")
        for what, why in failures:
            table.add_row(Text(redact(what)), Text(redact(why)))
        console.print()
        console.print(table)


def matrix(distances: xr.Dataset, metric: str, reference: str) -> Table:
    """A metric's overall distances as a table: all datasets, or the nearest to one of them.

    Columns are numbered like the rows, so that long names fit a narrow terminal.
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
