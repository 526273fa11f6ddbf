"""Extractors turn images into activations, layer by layer. Frozen networks are the built-in extractors.

This package knows nothing of datasets, Ray or configuration. Names that need torch are imported on first use;
`extractors.download` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distributions.moved import find_former_names

if TYPE_CHECKING:
    from extractors.base import ActivationSink, Extractor
    from extractors.errors import ExtractorError, LayerError, WeightsError
    from extractors.loading import build
    from extractors.network import ExtractorConfig, FrozenNetwork, check_device
    from extractors.preprocess.device_decode import device_inputs
    from extractors.preprocess.transform import Preprocess

__all__ = [
    "ActivationSink",
    "Extractor",
    "ExtractorConfig",
    "ExtractorError",
    "FrozenNetwork",
    "LayerError",
    "Preprocess",
    "WeightsError",
    "build",
    "check_device",
    "device_inputs",
]

_WHERE = {
    **dict.fromkeys(("Extractor", "ActivationSink"), "base"),
    **dict.fromkeys(("ExtractorConfig", "FrozenNetwork", "check_device"), "network"),
    **dict.fromkeys(("ExtractorError", "LayerError", "WeightsError"), "errors"),
    **{
        "Preprocess": "preprocess.transform",
        "build": "loading",
        "device_inputs": "preprocess.device_decode",
    },
}

find_former_names(
    {
        "extractors.cache": "extractors.download.files",
        "extractors.device_decode": "extractors.preprocess.device_decode",
        "extractors.hub_client": "extractors.download.hub_client",
        "extractors.resize": "extractors.preprocess.resize",
        "extractors.web": "extractors.download.web",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'extractors' has no attribute {name!r}")
    return getattr(importlib.import_module(f"extractors.{_WHERE[name]}"), name)
