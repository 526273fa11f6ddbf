"""Open a catalogue to read it. Reading needs neither Ray nor Hydra nor torch.

    cat = open_catalogue("https://host/catalogue")      # or a folder, s3://…, hf:datasets/OWNER/NAME, any fsspec URL
    cat.index()                                         # pandas.DataFrame, one row per VDNA
    v = cat.vdna("demo_digits", "efficientnet_lite0")   # reads a layer when the layer is first used
    cat.matrix("efficientnet_lite0", "emd")             # labelled distances between all datasets
    cat.nearest("demo_digits", "efficientnet_lite0")    # the nearest datasets
    cat.nearest(v, k=3, layers=["blocks.6.0"])          # or those nearest to any VDNA, in some layers
    cat.compare("demo_digits", "demo_faces", "efficientnet_lite0").most(5)

On the command line: `python -m pipeline.catalogue --help`
"""

from __future__ import annotations

from pipeline.catalogue.reader import CatalogueReader as Catalogue
from pipeline.catalogue.reader import open_catalogue

__all__ = ["Catalogue", "open_catalogue"]
