"""Values of the configuration, checked one at a time: each is given back as what it should be, or `UserError` names
its key and what is allowed.

one_of("device", value, ("auto", "cpu", "cuda"))
whole(settings, "batch_size")                 # at least 1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.storage.urls import is_text


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


def _check_texts(key: str, above: str, options: Mapping[str, Any]) -> None:
    """Raise `UserError` for a text that a file has as a number: YAML has changed it, and may have lost digits."""
    for name, value in options.items():
        option = f"{above}{name}"
        if isinstance(value, dict):
            _check_texts(key, f"{option}.", value)
        elif is_text(option) and isinstance(value, int | float) and not isinstance(value, bool):
            raise UserError(f"{key}.{option}: this is a text that looks like a number; put it in quotes")
