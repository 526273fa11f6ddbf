"""Options of stores on the catalogue's command line: `--storage KEY=VALUE`, one by one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from pipeline.errors import UserError
from pipeline.storage.urls import is_text


class Command(argparse.ArgumentParser):
    """A command, which takes `--catalogue` and `--storage` as well: people write them behind."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--catalogue", default=argparse.SUPPRESS, help="folder or URL (default: ./catalogue)")
        add(self, "storage", "its store", "storage_behind")  # apart, or it would replace those before


def add(parser: argparse.ArgumentParser, name: str, whose: str, kept: str | None = None) -> None:
    """Let a parser take options of a store."""
    words = (
        f"an option of {whose}, as fsspec has it: anon=true, client_kwargs.region_name=…; may be given several times"
    )
    parser.add_argument(f"--{name}", dest=kept, action="append", default=[], metavar="KEY=VALUE", help=words)


def typed(given: argparse.Namespace) -> None:
    """Make the options of stores what they are typed to mean."""
    for name in ("storage", "source_storage", "target_storage"):
        pairs = [*getattr(given, name, []), *getattr(given, f"{name}_behind", [])]
        setattr(given, name, storage(f"--{name.replace('_', '-')}", pairs))


def storage(flag: str, pairs: Iterable[str]) -> dict[str, Any]:
    """fsspec's options: a key with dots leads into one that holds others; true, false, null, numbers and JSON are what
    they say, everything else is text. Of a key that is given twice, the last counts. Values are in no error: they may
    be secret."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        *above, name = key.split(".")
        if not equals or not all((*above, name)):
            raise UserError(f"{flag}: give KEY=VALUE, for instance {flag} anon=true")
        if key in ("url", "self", "fo"):
            raise UserError(f"{flag} {key}: this is no option of a store")
        into = found
        for part in above:
            into = into.setdefault(part, {})
            if not isinstance(into, dict):
                raise UserError(f"{flag} {key}: {part} has a value already; give either that or what is in it")
        into[name] = value if is_text(key) else _typed(value)
    return found


def _typed(text: str) -> Any:
    try:
        return {"True": True, "False": False, "None": None}[text]
    except KeyError:
        pass
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except ValueError:
        return text
