"""The interface of the `vdna` library on this engine: a script written for `vdna` runs after changing one import.

    from pipeline.compat.vdna import EMD, VDNAProcessor, load_vdna_from_files      # was: from vdna import …

    vdna = VDNAProcessor().make_vdna(source="photos", feat_extractor_name="mugs_vit_base")
    vdna.save("photos")
    EMD(vdna, load_vdna_from_files("others"))

Names, arguments, defaults and files are those of `vdna` 0.1.1. `VDNAProcessor` also takes `ranges`, to replace the
published ranges, and the keys of an extractor. The differences are:

- Without a GPU, the default `device="cuda:0"` means the CPU, with a warning.
- A file that is no image is left out with a warning; `vdna` raises an error. A list may name a file only once.
- File extensions match in upper and lower case. Pictures with 16 bits per channel are scaled to 8; `vdna` clips them.
- A value on an interior edge of a bin counts once. Distances are float64 and counts int64; in files counts are int32.
- The modules `vdna.networks` and `vdna.utils`, and `VDNA.fill_vdna`, do not exist here.
"""

from __future__ import annotations

from pipeline.compat.vdna.distances import EMD, FD, NFD
from pipeline.compat.vdna.processor import VDNAProcessor
from pipeline.compat.vdna.vdna import VDNA, load_vdna_from_files, load_vdna_from_hub

__all__ = ["EMD", "FD", "NFD", "VDNA", "VDNAProcessor", "load_vdna_from_files", "load_vdna_from_hub"]
