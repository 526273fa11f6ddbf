"""The seed library's interface on our engine: a script written for `vdna` runs after changing one import.

    from pipeline.seed_api import EMD, VDNAProcessor, load_vdna_from_files      # was: from vdna import …

    vdna = VDNAProcessor().make_vdna(source="photos", feat_extractor_name="mugs_vit_base")
    vdna.save("photos")
    EMD(vdna, load_vdna_from_files("others"))

Names, arguments, defaults and files are those of vdna 0.1.1. What differs: `device="cuda:0"`, its default, stands for
the processor where there is no GPU, with a warning; endings of files count in any case; a value on an interior edge of
a bin counts once. `VDNAProcessor` also takes `ranges`, instead of the published ones, and the keys of an extractor.
"""

from __future__ import annotations

from pipeline.seed_api.distances import EMD, FD, NFD
from pipeline.seed_api.processor import VDNAProcessor
from pipeline.seed_api.vdna import VDNA, load_vdna_from_files, load_vdna_from_hub

__all__ = ["EMD", "FD", "NFD", "VDNA", "VDNAProcessor", "load_vdna_from_files", "load_vdna_from_hub"]
