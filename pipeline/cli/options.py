"""Parse the fsspec options on the catalogue's command line: `--storage KEY=VALUE`, given one by one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from pipeline.errors import UserError
from pipeline.storage.urls import is_text


class Command(argparse.ArgumentParser):
    """The parser of a command. It accepts `--catalogue` and `--storage` after the command's name, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--catalogue", default=argparse.SUPPRESS, help="folder or URL (default: ./catalogue)")
        add(self, "storage", "its store", "storage_behind")  # a name of its own, or it would replace the earlier ones


def add(parser: argparse.ArgumentParser, name: str, whose: str, dest: str | None = None) -> None:
    """Add the argument `--NAME KEY=VALUE` to a parser, for the fsspec options of `whose` store."""
    words = (
        f"an option of {whose}, as fsspec has it: anon=true, client_kwargs.region_name=…; may be given several times"
    )
    parser.add_argument(f"--{name}", dest=dest, action="append", default=[], metavar="KEY=VALUE", help=words)


def parse_storage(options: argparse.Namespace) -> None:
    """Replace the lists of KEY=VALUE in the parsed arguments by mappings of fsspec options."""
    for name in ("storage", "source_storage", "target_storage"):
        pairs = [*getattr(options, name, []), *getattr(options, f"{name}_behind", [])]
        setattr(options, name, storage(f"--{name.replace('_', '-')}", pairs))


def storage(flag: str, pairs: Iterable[str]) -> dict[str, Any]:
    """fsspec options from KEY=VALUE pairs of an argument such as "--storage".

    The dots of a key are levels of nested mappings. Values that are true, false, null, a number or JSON are parsed;
    others are texts. The last value of a key counts. Raises `UserError`, without values, which may be secret.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        *above, name = key.split(".")
        if not equals or not all((*above, name)):
            raise UserError(f"{flag}: give KEY=VALUE, for instance {flag} anon=true")
        if key in ("url", "self", "fo"):
            raise UserError(f"{flag} {key}: this is no option of a store")
        into = result
        for part in above:
            into = into.setdefault(part, {})
            if not isinstance(into, dict):
                raise UserError(f"{flag} {key}: {part} has a value already; give either that or what is in it")
        into[name] = value if is_text(key) else _typed(value)
    return result


def _typed(text: str) -> Any:
    try:
        return {"True": True, "False": False, "None": None}[text]
    except KeyError:
        pass
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except ValueError:
        return text
