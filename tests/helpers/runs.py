"""Runs of the whole pipeline on small data, and looks at what came of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.cli.runs import run_stages
from pipeline.stages.context import RunContext
from tests.helpers.commands import TINY, context

SMALL = (
    "batch_size=8",
    "threads=1",
    "decode_threads=1",
    "distributions=[histogram-100,gaussian,layer-gaussian,activation-ranges]",
)


def of(tars: Path, catalogue: Path | str, *overrides: str, name: str = "faces") -> RunContext:
    url = tars if tars.is_file() else f"{tars}/*.tar"
    where = ("dataset=images", f"dataset.name={name}", f"dataset.url={url}", f"catalogue={catalogue}")
    return context(*where, *TINY, *SMALL, *overrides)


def do(s: RunContext) -> RunContext:
    run_stages(s)
    return s


def digest(s: RunContext) -> str:
    """Of the arrays and ledger as they are read back."""
    return s.store.get_vdna(manifest(s)).digest()


def manifest(s: RunContext) -> dict[str, Any]:
    entry = s.store.manifest(s.settings.dataset.name, s.settings.extractor.name, s.spec().id)
    assert entry is not None
    return entry


def actor_processes(below: int | None = None) -> list[int]:
    """Process ids of the actors below a process: by default those of this test's own Ray."""
    parents: dict[int, int] = {}
    titles: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue

    def ours(process: int) -> bool:
        while process > 1:
            if process == (below or os.getpid()):
                return True
            process = parents.get(process, 0)
        return False

    return [p for p, title in titles.items() if title.startswith(b"ray::_Actor") and ours(p)]
