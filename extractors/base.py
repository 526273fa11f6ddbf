"""The extractor protocol: what the pipeline needs of anything that turns images into activations.

A frozen network (`extractors.network.FrozenNetwork`, made by `build`) is one extractor. Any object with these members
is another, and can be given to `make_vdna`:

    import hashlib

    class Pixels:
        name, architecture, licence = "pixels", "pixels", ""
        weights_sha256 = hashlib.sha256(b"").hexdigest()
        precision, published_ranges, provenance = "fp32", "", {}
        preprocess = Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        layers = {"colour": 3}
        device = torch.device("cpu")

        def __call__(self, images, sink):
            sink("colour", images.flatten(2).transpose(1, 2))

    make_vdna("photos/", Pixels())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from extractors.preprocess.transform import Preprocess

ActivationSink = Callable[[str, torch.Tensor], object]
"""Receives the activations of one layer for one batch of images: `sink(layer, activations)`, with `activations`
(samples, positions, neurons), floating-point, any strides, detached from autograd. The tensor may be a view that the
extractor overwrites after the call returns: a sink uses or copies it at once."""


@runtime_checkable
class Extractor(Protocol):
    """Turns batches of preprocessed images into activations, layer by layer.

    `name`, `architecture`, `weights_sha256`, `preprocess.id`, `precision` and `layers` together identify what is
    measured: they are part of a VDNA's spec, and VDNAs are comparable only if they are equal. Two extractors whose
    activations differ for any image must differ in at least one of them.

    An extractor decides itself how it computes. The pipeline calls it without `torch.inference_mode` and without
    `torch.no_grad`, so an extractor may use autograd; one that does not need autograd turns it off inside `__call__`.
    """

    @property
    def name(self) -> str:
        """Name of the extractor in specs, commands and file names: letters, digits, `.`, `_` and `-`."""

    @property
    def architecture(self) -> str:
        """Identifies the computation, weights aside, and which of its parts are the layers."""

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the parameters as loaded, 64 hexadecimal digits."""

    @property
    def precision(self) -> str:
        """The arithmetic: one of `extractors.arithmetic.PRECISIONS`."""

    @property
    def preprocess(self) -> Preprocess:
        """From a decoded picture to an input: (height, width, 3) uint8 to (3, size, size) float32."""

    @property
    def layers(self) -> Mapping[str, int]:
        """`{layer: neurons}` in network order."""

    @property
    def device(self) -> torch.device:
        """The device that activations are on when they reach the sink."""

    @property
    def licence(self) -> str:
        """Licence of the network and its weights; empty if it is not stated."""

    @property
    def published_ranges(self) -> str:
        """Path or URL of the activation ranges that `ranges="published"` stands for; empty if there are none."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Settings that may change the last bits of an activation, as JSON values. They are stored beside the numbers
        and are not part of the spec."""

    def __call__(self, images: torch.Tensor, sink: ActivationSink) -> None:
        """Give the activations of each layer for a batch of images to `sink`, exactly once per layer.

        `images` are (samples, 3, size, size) float32, made by `preprocess`, on any device; the first dimension of
        the activations is in the same order. On a GPU `sink` may be called with another CUDA stream as the current one;
        when this method returns, the work of all sinks is ordered before what is submitted to the stream that was
        current at the call.

        Several threads may call an extractor at the same time, each with a sink of its own. Errors of `sink` are
        raised unchanged.
        """
