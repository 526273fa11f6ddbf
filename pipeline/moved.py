"""Let modules that have moved be imported by their former names, so that scripts and notebooks keep working.

import pipeline.store                     # is pipeline.catalogue.writer
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

MOVED = {
    "pipeline.actors": "pipeline.cluster.actors",
    "pipeline.ahead": "pipeline.storage.ahead",
    "pipeline.arguments": "pipeline.config.arguments",
    "pipeline.cache": "pipeline.storage.cache",
    "pipeline.catalogue.neighbours": "pipeline.catalogue.neighbours",
    "pipeline.catalogue.opened": "pipeline.catalogue.reader",
    "pipeline.catalogue.options": "pipeline.cli.options",
    "pipeline.changes": "pipeline.storage.changes",
    "pipeline.checks": "pipeline.config.checks",
    "pipeline.clients": "pipeline.storage.clients",
    "pipeline.data.sources": "pipeline.data.discovery",
    "pipeline.data.streams": "pipeline.data.readers",
    "pipeline.disk": "pipeline.storage.disk",
    "pipeline.exchange": "pipeline.cli.exchange",
    "pipeline.extractors": "pipeline.cli.extractors",
    "pipeline.faults": "pipeline.storage.faults",
    "pipeline.feed": "pipeline.extraction.feed",
    "pipeline.fid_files": "pipeline.formats.fid_files",
    "pipeline.folder": "pipeline.storage.folder",
    "pipeline.groups": "pipeline.formats.groups",
    "pipeline.hub": "pipeline.storage.hub",
    "pipeline.images": "pipeline.measure.images",
    "pipeline.lanes": "pipeline.extraction.lanes",
    "pipeline.layouts": "pipeline.catalogue.site_data",
    "pipeline.make": "pipeline.measure.make",
    "pipeline.manifests": "pipeline.formats.manifests",
    "pipeline.networks": "pipeline.config.networks",
    "pipeline.objects": "pipeline.storage.objects",
    "pipeline.planning": "pipeline.data.plan",
    "pipeline.pool": "pipeline.cluster.scheduler",
    "pipeline.progress": "pipeline.terminal",
    "pipeline.ray_start": "pipeline.cluster.ray_start",
    "pipeline.recipes": "pipeline.cli.recipes",
    "pipeline.report": "pipeline.cli.report",
    "pipeline.rows": "pipeline.formats.rows",
    "pipeline.seed_api.distances": "pipeline.compat.vdna.distances",
    "pipeline.seed_api.processor": "pipeline.compat.vdna.processor",
    "pipeline.seed_api.vdna": "pipeline.compat.vdna.vdna",
    "pipeline.seed_files": "pipeline.formats.vdna_files",
    "pipeline.sketches": "pipeline.catalogue.sketches",
    "pipeline.store": "pipeline.catalogue.writer",
    "pipeline.stored": "pipeline.catalogue.stored",
    "pipeline.summary": "pipeline.catalogue.summary",
    "pipeline.thumbnails": "pipeline.extraction.thumbnails",
    "pipeline.tiles": "pipeline.matrix.tiles",
    "pipeline.worker": "pipeline.extraction.worker",
}
"""The present name of each module, by its former name."""


class Mover(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports a module by its former name. The result is the module itself, and not a copy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has replaced the spec of the module by that of its former name: put it back.
        module.__spec__ = module.__spec__.loader_state if module.__spec__ else None

    def is_package(self, fullname: str) -> bool:
        return False

    def get_source(self, fullname: str) -> str | None:
        return None

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code, for `python -m FORMER.NAME`."""
        spec = importlib.util.find_spec(MOVED[fullname])
        loader = spec.loader if spec else None
        return loader.get_code(MOVED[fullname]) if isinstance(loader, importlib.abc.InspectLoader) else None


def find_former_names() -> None:
    """Make `import` find modules by their former names."""
    if not any(isinstance(finder, Mover) for finder in sys.meta_path):
        sys.meta_path.append(Mover())
