"""Import modules that have moved by their former names.

find_former_names({"json.reading": "json.decoder"})
import json.reading                   # the module json.decoder itself
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType


class Mover(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports a module by its former name. The result is the module itself, and not a copy.

    `moved` has the present name of each module by its former name.
    """

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = moved

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname in self.moved else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.moved[spec.name])
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
        spec = importlib.util.find_spec(self.moved[fullname])
        loader = spec.loader if spec else None
        return loader.get_code(self.moved[fullname]) if isinstance(loader, importlib.abc.InspectLoader) else None


def find_former_names(moved: Mapping[str, str]) -> None:
    """Make `import` find modules by their former names."""
    sys.meta_path.append(Mover(moved))
