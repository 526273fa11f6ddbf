"""Pictures of VDNAs, comparisons and matrices, and what Jupyter shows of them. Nothing opens a window.

    view.save("faces.png")                    # its neurons, layer by layer
    comparison.save("pair.svg")               # where two VDNAs differ
    save(of_matrix(distances, names, "EMD", "bins"), "matrix.pdf")

Figures are matplotlib's own objects, without pyplot's state, so they can be made in any thread. Matplotlib is loaded
with the first figure.
"""

from __future__ import annotations

from distributions.plots.comparisons import of_comparison
from distributions.plots.matrices import of_matrix
from distributions.plots.paper import ENDINGS, check_ending, save
from distributions.plots.views import of_view

__all__ = ["ENDINGS", "check_ending", "of_comparison", "of_matrix", "of_view", "save"]
