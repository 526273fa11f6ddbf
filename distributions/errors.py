"""What cannot be put together."""

from __future__ import annotations


class IncompatibleError(ValueError):
    """Two things were merged or compared that do not describe the same quantity."""
