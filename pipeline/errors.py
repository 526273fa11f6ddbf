"""Errors of the pipeline. Commands show them as one line without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distributions.errors import UnknownLayerError, VDNAError


class UserError(VDNAError):
    """A mistake in the command, the configuration or the data. The message names the key and the remedy."""


class LayerUserError(UserError, UnknownLayerError):
    """A command or a call names a layer that the VDNAs do not have."""


class Terminated(SystemExit):
    """A signal has ended this process. No code of the process asked for the end."""


class ShortReadError(VDNAError, OSError):
    """A store returned another number of bytes than the object has. Another try may succeed."""


class SourceChangedError(UserError):
    """A shard has changed since it was planned. Another try fails too, until the dataset is planned again."""


PLAN_AGAIN = "run the command again, with plan among its stages"
"""The remedy of a `SourceChangedError`."""
NEWER = "written by a newer version of this program; update vdna-catalogue"
"""What is wrong with a stored object of a later format, and the remedy."""


class DamagedError(VDNAError):
    """A stored object is damaged: its contents differ from what was written."""


@contextmanager
def damage(words: str) -> Iterator[None]:
    """Turn exceptions into a `DamagedError` that begins with `words`. For damaged input zarr, xarray, zipfile, json and
    their codecs raise exceptions of many kinds."""
    try:
        yield
    except (DamagedError, UserError):
        raise
    except Exception as error:
        raise DamagedError(f"{words} ({type(error).__name__}: {str(error)[:200]})") from error
