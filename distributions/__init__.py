"""The mathematics of visual DNA: mergeable distributions of neuron activations, and their distances.

This package imports nothing of images, files, Ray or configuration. Reading and comparing VDNAs needs no torch. The
classes that count activations need torch, and are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distributions.axes import HistogramAxes, Ranges
from distributions.distances import emd, fd, nfd
from distributions.errors import IncompatibleError, UnknownLayerError, VDNAError
from distributions.ledger import Ledger, ShardRecord
from distributions.moved import find_former_names
from distributions.spec import Spec
from distributions.view import View

if TYPE_CHECKING:
    from distributions.activation_ranges import ActivationRanges
    from distributions.base import Distribution
    from distributions.gaussian import Gaussian
    from distributions.histogram import Histogram
    from distributions.layer_gaussian import LayerGaussian
    from distributions.vdna import VDNA

__all__ = [
    "VDNA",
    "ActivationRanges",
    "Distribution",
    "Gaussian",
    "Histogram",
    "HistogramAxes",
    "IncompatibleError",
    "LayerGaussian",
    "Ledger",
    "Ranges",
    "ShardRecord",
    "Spec",
    "UnknownLayerError",
    "VDNAError",
    "View",
    "emd",
    "fd",
    "nfd",
]

find_former_names({"distributions.ranges": "distributions.axes"})

_NEED_TORCH = {
    "VDNA": "vdna",
    "ActivationRanges": "activation_ranges",
    "Distribution": "base",
    "Gaussian": "gaussian",
    "Histogram": "histogram",
    "LayerGaussian": "layer_gaussian",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'distributions' has no attribute {name!r}")
    return getattr(importlib.import_module(f"distributions.{_NEED_TORCH[name]}"), name)
