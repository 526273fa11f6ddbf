"""The exceptions of extractors and downloads. All of them are `distributions.errors.VDNAError`s.

`ExtractorError` and its kinds say what to change in an extractor's configuration; `FetchError` and `WebError` say why a
file or a host cannot be reached. Torch is not needed.
"""

from __future__ import annotations

from distributions.errors import UnknownLayerError, VDNAError


class ExtractorError(VDNAError, ValueError):
    """A network, its weights or its settings cannot be had as asked; the message says what to change."""


class LayerError(ExtractorError):
    """A layer that the network does not have, or whose output is not a batch of activations."""


class NoSuchLayerError(LayerError, UnknownLayerError):
    """A name or pattern of a layer that fits none of the network's modules."""


class WeightsError(ExtractorError):
    """The weights cannot be had, or they are not this network's."""


class FetchError(VDNAError, OSError):
    """A file cannot be fetched; the message says why."""


class WebError(VDNAError, OSError):
    """A fault on the way to a host, as one line for people, without secrets."""


class Unreachable(WebError):
    """Nothing has answered at this address in this process: a wrong address, or a server that is down."""


class Refused(WebError):
    """A fault that another try does not change: a certificate that is not trusted, a proxy that wants a password."""
