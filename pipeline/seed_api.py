"""The former name of `pipeline.compat.vdna`."""

from __future__ import annotations

from pipeline.compat.vdna import *  # noqa: F403
from pipeline.compat.vdna import __all__ as __all__

__path__: list[str] = []  # a package, so that former names of its modules are looked for
