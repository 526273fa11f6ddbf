"""What all pictures share: paper, ink and letters, and how they are saved.

figure = sheet(9.6, 5.0, [("faces", INK)], "200 images")
axes = quiet(figure.add_subplot())
write(axes, 0.0, 1.0, "any text: $ is a dollar")
save(figure, "faces.png")
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

INK, MUTED, LINE, SOFT = "#1a1f26", "#5a6470", "#d5dae0", "#eef1f4"
FIRST, SECOND = "#2467b3", "#b9540c"
"""The site's colours of two datasets: a blue and an orange that are told apart with any kind of colour vision."""
LETTERS = "DejaVu Sans"
"""Comes with matplotlib, so pictures are the same on every machine."""
UNKNOWN = "\N{WHITE SQUARE}"
ENDINGS = (".png", ".svg", ".pdf")
BAND = 0.78
"""Inches of a title and what is said below it."""
DPI = 200


def sheet(width: float, height: float, title: Sequence[tuple[str, str]], below: str) -> Figure:
    """An empty figure of a size in inches, its title at the top left: words, each with its colour."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    rest = (0.0, 0.0, 1.0, 1 - BAND / height)
    layout = ConstrainedLayoutEngine(rect=rest, w_pad=0.09, h_pad=0.09, wspace=0.02, hspace=0.05)
    figure = Figure((width, height), dpi=DPI, facecolor="white", layout=layout)
    room = int((width - 0.3) / 0.12)  # letters of the title that fit
    each = room if len(title) == 1 else (room - 4) // 2
    words: list[Artist] = [
        TextArea(shorten(text, each), textprops={"color": color, "fontweight": "bold", **letters(12.5)})
        for text, color in title
    ]
    line = AnchoredOffsetbox(
        "upper left",
        child=HPacker(children=words, sep=5, pad=0, align="baseline"),
        pad=0,
        borderpad=0,
        frameon=False,
        bbox_to_anchor=(0.11 / width, 1 - 0.14 / height),
        bbox_transform=figure.transFigure,
    )
    line.set_in_layout(False)
    figure.add_artist(line)
    write(figure, 0.11 / width, 1 - 0.45 / height, shorten(below, int(room * 1.55)), size=8.5, color=MUTED, va="top")
    return figure


def write(where: Axes | Figure | SubFigure, x: float, y: float, text: str, size: float = 8, **more: Any) -> None:
    """Text at a place: on a figure in shares of it, on axes in their data. Never read as mathematics."""
    where.text(x, y, printable(text), **{"color": INK, **letters(size), **more})


def letters(size: float) -> dict[str, Any]:
    """Of any text: names of datasets may hold a dollar, which would begin a formula."""
    return {"fontsize": size, "fontfamily": LETTERS, "parse_math": False}


def quiet(axes: Axes, *sides: str) -> Axes:
    """Axes with a thin line on some sides, and nothing else that a figure could do without."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in sides)
        spine.set(color=LINE, linewidth=0.8)
    axes.set_facecolor("white")
    axes.grid(False)
    axes.tick_params(color=LINE, labelcolor=MUTED, labelsize=7.5, labelfontfamily=LETTERS, length=2.5, width=0.8)
    return axes


def head(axes: Axes, title: str, below: str = "", most: int = 34) -> None:
    """A panel's title, and in a lighter line what it shows."""
    axes.set_title(" ", loc="left", fontsize=8.5, pad=16 if below else 5)  # so that the layout leaves room
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    up = 16 if below else 5
    axes.annotate(shorten(title, most), (0, 1), (0, up), color=INK, fontweight="bold", **letters(8.5), **place)
    axes.annotate(shorten(below, most + 8), (0, 1), (0, 5), color=MUTED, **letters(7.5), **place)


def shorten(text: str, most: int) -> str:
    """Long text without its middle, for names often differ at their ends."""
    text = printable(text)
    if len(text) <= most:
        return text
    left = (most - 1) * 2 // 3
    return f"{text[:left]}…{text[len(text) - (most - 1 - left) :]}"


def printable(text: str) -> str:
    """Text on one line, with a square in place of each character that the font does not have."""
    line = " ".join(str(text).split())
    return "".join(sign if ord(sign) in _signs() and sign.isprintable() else UNKNOWN for sign in line)


@lru_cache(maxsize=1)
def _signs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(LETTERS)).get_charmap())


def figure_number(value: float) -> str:
    """A number as it is read: three figures, no exponents where they can be helped."""
    if value != value:
        return "–"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def check_ending(path: str | Path) -> str:
    """The ending of a picture's name; `ValueError` names those there are."""
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"{path}: a picture's name ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    return ending


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture, of the kind that its name ends in."""
    ending = check_ending(path)
    data = drawn(figure, ending.removeprefix("."))
    try:
        path = Path(path).expanduser()
    except RuntimeError:  # ~ of nobody: the name of a file
        path = Path(path)
    path.write_bytes(data)


def drawn(figure: Figure, kind: str, dpi: float = DPI) -> bytes:
    """A picture's bytes. They do not say when they were made."""
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with io.BytesIO() as out:
        figure.savefig(out, format=kind, dpi=dpi, metadata=undated)
        return out.getvalue()
