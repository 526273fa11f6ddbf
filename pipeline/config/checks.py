"""Check single values of the configuration. Each check returns the value, or raises `UserError` with the key and the
allowed values.

one_of("device", value, ("auto", "cpu", "cuda"))
whole(settings, "batch_size")                 # at least 1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.storage.urls import is_text


def one_of(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of the allowed texts."""
    if value not in allowed:
        raise UserError(f"{key}={value}: allowed are {', '.join(allowed)}")
    return str(value)


def several(c: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of at least one text."""
    value = c[key]
    if not isinstance(value, list) or not value:
        raise UserError(f"{key}={value}: give a list, for instance {key}=[{'plan' if key == 'stages' else 'gaussian'}]")
    return tuple(map(str, value))


def whole(c: Mapping[str, Any], key: str) -> int:
    """A whole number, at least 1."""
    value = c[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}={value}: must be a whole number, at least 1")
    return value


def number(c: Mapping[str, Any], key: str, low: float, high: float = float("inf")) -> float:
    """A number from `low` to `high`."""
    value = c[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{key}={value}: must be a number from {low:g}" + (f" to {high:g}" if high < 1e9 else ""))
    return float(value)


def switch(key: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise UserError(f"{key}={value}: allowed are true, false")
    return value


def text(key: str, value: Any) -> str:
    """A text; "" for None. A number is accepted as a text."""
    if isinstance(value, bool | list | tuple | dict):
        raise UserError(f"{key}={value}: give a text; in a file put it in quotes")
    return "" if value is None else str(value)


def options(key: str, value: Any) -> dict[str, Any]:
    """fsspec options; an empty mapping for None."""
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{key}={value}: give options one by one, for instance +{key}.anon=true")
    _check_texts(key, "", value or {})
    return value or {}


def _check_texts(key: str, above: str, options: Mapping[str, Any]) -> None:
    """Raise `UserError` for an option that must be a text and is a number: YAML may have lost digits of it."""
    for name, value in options.items():
        option = f"{above}{name}"
        if isinstance(value, dict):
            _check_texts(key, f"{option}.", value)
        elif is_text(option) and isinstance(value, int | float) and not isinstance(value, bool):
            raise UserError(f"{key}.{option}: this is a text that looks like a number; put it in quotes")
