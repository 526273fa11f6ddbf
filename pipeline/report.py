"""What a run ends with on the terminal: what was counted, the matrix, and where the site is."""

from __future__ import annotations

import xarray as xr
from rich.console import Console
from rich.table import Table

from pipeline.config import Settings

MOST = 12
"""Datasets shown of a matrix; the site has them all."""


def show(settings: Settings, console: Console | None = None) -> None:
    """Print the dataset's counts, the distances of its extractor and the path of the site."""
    console = console or Console()
    store, name = settings.store, settings.extractor.name
    counts = Table(title=f"{settings.dataset.name} · {name}", title_justify="left")
    for column in ("images", "skipped", "reasons", "damaged shards", "fingerprint"):
        counts.add_column(column, overflow="fold")
    manifest = store.manifest(settings.dataset.name, name)
    if manifest is not None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest["skipped_by_reason"].items()) or "none"
        cells = (manifest["images"], manifest["skipped"], reasons, manifest["damaged_shards"], manifest["fingerprint"])
        counts.add_row(*map(str, cells))
        console.print(counts)
    distances = store.get_distances(name)
    if distances is not None and "compare" in settings.stages:
        for metric in ("emd", "fd"):
            if metric in distances:
                console.print(matrix(distances, metric, settings.dataset.name))
    if "publish" in settings.stages:
        console.print(f"site: {settings.catalogue.rstrip('/')}/site/index.html", soft_wrap=True)


def matrix(distances: xr.Dataset, metric: str, reference: str) -> Table:
    """A metric's overall distances as a table: all datasets, or the nearest to one of them."""
    values = distances[f"{metric}_overall"]
    names = [str(name) for name in values["dataset"].to_numpy()]
    if len(names) > MOST:
        names = [
            str(n) for n in values.sel(dataset=reference).sortby(values.sel(dataset=reference))["other"].to_numpy()
        ]
    names = names[:MOST]
    title = f"{metric.upper()} ({values.attrs['units']}), {values.sizes['dataset']} datasets"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for row in names:
        table.add_row(row, *(f"{float(values.sel(dataset=row, other=column)):.3g}" for column in names))
    return table
