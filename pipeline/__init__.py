"""Measure the VDNAs of image datasets, and read catalogues of them.

from pipeline import make_vdna, open_catalogue
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributions.moved import find_former_names
from pipeline.moved import MOVED

if TYPE_CHECKING:
    from pipeline.catalogue.reader import CatalogueReader as Catalogue
    from pipeline.catalogue.reader import open_catalogue
    from pipeline.measure.make import make_vdna

__all__ = ["Catalogue", "make_vdna", "open_catalogue"]


find_former_names(MOVED)


def __getattr__(name: str) -> Any:
    # Imported on first use: a worker that imports pipeline.extraction needs none of it.
    if name == "make_vdna":
        try:
            from pipeline.measure.make import make_vdna
        except ModuleNotFoundError as error:
            hint = f"make_vdna needs {error.name}: pip install '.[images]', in this program's folder"
            raise ImportError(hint) from None
        return make_vdna
    if name in ("Catalogue", "open_catalogue"):
        import pipeline.catalogue

        return getattr(pipeline.catalogue, name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
