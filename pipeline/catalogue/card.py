"""Show a catalogue in Jupyter as HTML, from its index alone.

card(url, rows)                                     # rows of the index
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distributions.plots import cards

SHOWN = 12
"""VDNAs listed in the HTML; `Catalogue.index` lists all."""
COLUMNS = ("dataset", "extractor", "images", "skipped", "created")


def card(url: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """HTML with the numbers of datasets, VDNAs and images, and a table of the first VDNAs."""
    facts = {
        "datasets": f"{len({row['dataset'] for row in rows}):,}",
        "VDNAs": f"{len(rows):,}",
        "extractors": ", ".join(sorted({row["extractor"] for row in rows})),
        "images": f"{sum(row['images'] for row in rows):,}",
    }
    first = cards.table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows[:SHOWN]])
    more = f"<p>and {len(rows) - SHOWN:,} more: cat.index()</p>" if len(rows) > SHOWN else ""
    return cards.card(f"Catalogue at {url}", facts) + first + more
