"""Errors of the pipeline. Commands show them as one line without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the command, the configuration or the data. The message names the key and the remedy."""


class Terminated(SystemExit):
    """A signal has ended this process. No code of the process asked for the end."""


class ShortReadError(OSError):
    """A store returned another number of bytes than the object has. Another try may succeed."""


class SourceChangedError(UserError):
    """A shard has changed since it was planned. Another try fails too; run the plan stage again."""


class DamagedError(Exception):
    """A stored object is damaged: its contents differ from what was written."""
