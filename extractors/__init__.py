"""Frozen networks: from images to activations, layer by layer.

Knows nothing of files, Ray or configuration.
"""

from extractors.device_decode import device_inputs
from extractors.layers import ExtractorError, LayerError
from extractors.loading import build
from extractors.network import Extractor, ExtractorConfig, check_device
from extractors.preprocess import Preprocess
from extractors.weights import WeightsError

__all__ = [
    "Extractor",
    "ExtractorConfig",
    "ExtractorError",
    "LayerError",
    "Preprocess",
    "WeightsError",
    "build",
    "check_device",
    "device_inputs",
]
