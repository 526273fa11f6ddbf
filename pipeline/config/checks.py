"""Values of the configuration, checked one at a time: each is given back as what it should be, or `UserError` names
its key and what is allowed.

one_of("device", value, ("auto", "cpu", "cuda"))
whole(settings, "batch_size")                 # at least 1
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError

TEXTS = (
    *("key", "secret", "token", "username", "user", "password", "passphrase", "profile", "endpoint_url", "region_name"),
    *("account_name", "account_key", "sas_token", "connection_string", "client_id", "client_secret", "tenant_id"),
    *("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
)
"""Options of stores that are texts, also where they look like numbers."""


def is_text(option: str) -> bool:
    """Whether an option of a store, with dots for what is in another, is a text whatever it looks like."""
    *above, name = option.split(".")
    return name in TEXTS or "headers" in above


def one_of(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UserError(f"{key}={value}: allowed are {', '.join(allowed)}")
    return str(value)


def several(c: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = c[key]
    if not isinstance(value, list) or not value:
        raise UserError(f"{key}={value}: give a list, for instance {key}=[{'plan' if key == 'stages' else 'gaussian'}]")
    return tuple(map(str, value))


def whole(c: Mapping[str, Any], key: str) -> int:
    value = c[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value}: must be a whole number, at least 1")
    return value


def number(c: Mapping[str, Any], key: str, low: float, high: float = float("inf")) -> float:
    value = c[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{key}={value}: must be a number from {low:g}" + (f" to {high:g}" if high < 1e9 else ""))
    return float(value)


def switch(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{key}={value}: allowed are true, false")
    return value


def text(key: str, value: Any) -> str:
    """A text, or a number that stands for one; nothing for None."""
    if isinstance(value, bool | list | tuple | dict):
        raise UserError(f"{key}={value}: give a text; in a file put it in quotes")
    return "" if value is None else str(value)


def options(key: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{key}={value}: give options one by one, for instance +{key}.anon=true")
    _check_texts(key, "", value or {})
    return value or {}


def store_options(url: str, given: Mapping[str, Any], above: str = "") -> None:
    """Raise `UserError`, without a value, for options that no store takes in that form."""
    for key, value in given.items():
        option = f"{above}{key}"
        if isinstance(value, Mapping):
            store_options(url, value, f"{option}.")
        elif key.endswith("_kwargs") or (key == "headers" and value is not None):
            raise UserError(f"{url}: option {option} of its store holds others; give {option}.NAME=VALUE")
        elif key == "endpoint_url" and value is not None and not re.match(r"https?://[^/]", str(value)):
            raise UserError(f"{url}: option {option} of its store: give http://HOST:PORT or https://HOST")


def _check_texts(key: str, above: str, options: Mapping[str, Any]) -> None:
    """Raise `UserError` for a text that a file has as a number: YAML has changed it, and may have lost digits."""
    for name, value in options.items():
        option = f"{above}{name}"
        if isinstance(value, dict):
            _check_texts(key, f"{option}.", value)
        elif is_text(option) and isinstance(value, int | float) and not isinstance(value, bool):
            raise UserError(f"{key}.{option}: this is a text that looks like a number; put it in quotes")
