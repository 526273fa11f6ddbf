"""What people are shown: texts are never markup, and a terminal that lacks a letter shows its number instead.

lenient()                                 # first in every command
console = plain()                         # a rich console for which `old [/b]` and `:smile:` are what they are
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console


def plain(**options: Any) -> Console:
    """A console that takes no text for markup or for the name of an emoji."""
    return Console(markup=False, emoji=False, **options)


def lenient(*streams: object) -> None:
    """Let streams, by default the standard ones, show letters that their encoding lacks as `\\u2013`.

    A standard stream that is closed becomes one that nobody reads.
    """
    if not streams:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (it stays until the end)
        streams = (sys.stdout, sys.stderr)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
