"""What is shown to a person as one line without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the command, configuration or data; the message names the key and the remedy."""


class Terminated(SystemExit):
    """This process was told to end by a signal; no code that it ran meanwhile asked for that."""


class ShortReadError(OSError):
    """A store gave another number of bytes than the object has. Another try may help."""


class SourceChangedError(UserError):
    """A shard is not the one that was planned. Another try does not help; planning again does."""


class DamagedError(Exception):
    """A stored object is not what was written: its contents do not have the digest they were stored with."""
