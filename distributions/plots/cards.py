"""What Jupyter shows: a small table of facts, and a picture in the page itself.

    card("faces", {"images": "200"}, of_view(view))     # HTML

Names of datasets and layers come from files of strangers, so every text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from distributions.plots.paper import drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PICTURE_BYTES = 140_000
"""Bytes of a picture in a notebook, before base64 makes a third more of them."""


def card(title: str, facts: Mapping[str, Any], figure: Figure | None = None) -> str:
    """A title, a row for each fact, and a picture below."""
    cell = "text-align:left;padding:1px 14px 1px 0"
    rows = "".join(
        f'<tr><th style="{cell};font-weight:normal;opacity:.7">{escape(name)}</th>'
        f'<td style="{cell}">{escape(_short(value))}</td></tr>'
        for name, value in facts.items()
    )
    picture = "" if figure is None else image(figure, title)
    return f"<div><strong>{escape(_short(title))}</strong><table>{rows}</table>{picture}</div>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with a line of names."""

    def line(tag: str, values: Sequence[Any]) -> str:
        cells = (f'<{tag} style="text-align:left">{escape(_short(value))}</{tag}>' for value in values)
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', columns)}</thead><tbody>{body}</tbody></table>"


def image(figure: Figure, alternative: str) -> str:
    """The picture as part of a page, twice as fine as it is shown where that is not too much."""
    width = round(figure.get_figwidth() * 90)
    for dpi in (160, 140, 120, 105, 90, 70, 50, 35):
        content = drawn(figure, "png", min(dpi, 4000 / max(figure.get_size_inches())))
        if len(content) <= MAX_PICTURE_BYTES:
            break
    data = base64.b64encode(content).decode()
    return (
        f'<img alt="{escape(_short(alternative))}" src="data:image/png;base64,{data}" '
        f'style="width:{width}px;max-width:100%;background:white"/>'
    )


def _short(value: Any) -> str:
    """Text of one line that does not fill the page."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(value))
    return text if len(text) <= 300 else f"{text[:299]}…"
