"""What is shown to a person as one line without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the command, configuration or data; the message names the key and the remedy."""


class Terminated(SystemExit):
    """This process was told to end by a signal; no code that it ran meanwhile asked for that."""


class DamagedError(Exception):
    """A stored object is not what was written: its contents do not have the digest they were stored with."""
