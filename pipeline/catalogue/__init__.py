"""What consumers open: a catalogue, read-only; neither Ray nor Hydra nor torch is needed.

    cat = open_catalogue("https://host/catalogue")      # or a folder, s3://…, hf:datasets/OWNER/NAME, any fsspec URL
    cat.index()                                         # pandas.DataFrame, a row per VDNA
    v = cat.vdna("demo_digits", "efficientnet_lite0")   # read layer by layer, as it is asked for
    cat.matrix("efficientnet_lite0", "emd")             # labelled distances between all datasets
    cat.nearest("demo_digits", "efficientnet_lite0")    # the datasets most like it
    cat.nearest(v, k=3, layers=["blocks.6.0"])          # or most like any VDNA, in some layers
    cat.compare("demo_digits", "demo_faces", "efficientnet_lite0").most(5)

On the command line: `python -m pipeline.catalogue --help`
"""

from __future__ import annotations

from pipeline.catalogue.reader import Catalogue, open_catalogue

__all__ = ["Catalogue", "open_catalogue"]
