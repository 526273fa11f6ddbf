"""The root of the exceptions that `distributions`, `extractors` and `pipeline` raise themselves.

from distributions import emd

try:
    emd(v, w, layer="block_0")
except UnknownLayerError: ...                 # the VDNA has no such layer
except IncompatibleError: ...                 # v and w were measured differently
except VDNAError: ...                         # any other exception of these packages
"""

from __future__ import annotations


class VDNAError(Exception):
    """Root of the exceptions of these packages. Arguments of a wrong value or type also raise plain `ValueError`,
    `TypeError` and `IndexError`, as Python's own functions do."""


class IncompatibleError(VDNAError, ValueError):
    """Two things were merged or compared that do not describe the same quantity."""


class UnknownLayerError(VDNAError, ValueError):
    """A layer was named that the VDNA or the network does not have; the message names those that it has."""
