"""The mathematics of visual DNA: mergeable distributions of neuron activations, and their distances.

Knows nothing of images, files, Ray or configuration.
"""

from distributions.base import Distribution, IncompatibleError
from distributions.distances import emd, fd, nfd
from distributions.gaussian import Gaussian
from distributions.histogram import Histogram
from distributions.layer_gaussian import LayerGaussian
from distributions.ledger import Ledger, ShardRecord
from distributions.ranges import ActivationRanges, Ranges
from distributions.vdna import VDNA, Spec

__all__ = [
    "VDNA",
    "ActivationRanges",
    "Distribution",
    "Gaussian",
    "Histogram",
    "IncompatibleError",
    "LayerGaussian",
    "Ledger",
    "Ranges",
    "ShardRecord",
    "Spec",
    "emd",
    "fd",
    "nfd",
]
