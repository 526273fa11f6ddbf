"""What a person can mend: shown as one line without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the command, configuration or data; the message names the key and the remedy."""
