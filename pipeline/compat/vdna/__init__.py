"""The seed library's interface on our engine: a script written for `vdna` runs after changing one import.

    from pipeline.compat.vdna import EMD, VDNAProcessor, load_vdna_from_files      # was: from vdna import …

    vdna = VDNAProcessor().make_vdna(source="photos", feat_extractor_name="mugs_vit_base")
    vdna.save("photos")
    EMD(vdna, load_vdna_from_files("others"))

Names, arguments, defaults and files are those of vdna 0.1.1. `VDNAProcessor` also takes `ranges`, instead of the
published ones, and the keys of an extractor. What differs:

- `device="cuda:0"`, its default, stands for the processor where there is no GPU, with a warning.
- A file that is no image is left out with a warning; the seed raises. A list may name a file once.
- Endings of files count in any case. Pictures of 16 bits a channel are scaled to 8; the seed clips them.
- A value on an interior edge of a bin counts once. Distances are float64, counts int64; in files they are int32.
- Its modules below the top (`vdna.networks`, `vdna.utils`) have no counterpart; nor has `VDNA.fill_vdna`.
"""

from __future__ import annotations

from pipeline.compat.vdna.distances import EMD, FD, NFD
from pipeline.compat.vdna.processor import VDNAProcessor
from pipeline.compat.vdna.vdna import VDNA, load_vdna_from_files, load_vdna_from_hub

__all__ = ["EMD", "FD", "NFD", "VDNA", "VDNAProcessor", "load_vdna_from_files", "load_vdna_from_hub"]
