"""A catalogue as Jupyter shows it: what there is, without another request.

card(url, rows)                                     # HTML; rows as the index has them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distributions.plots import cards

SHOWN = 12
"""VDNAs that are listed; `Catalogue.index` has them all."""
COLUMNS = ("dataset", "extractor", "images", "skipped", "created")


def card(url: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """How much there is, and the first of its VDNAs."""
    facts = {
        "datasets": f"{len({row['dataset'] for row in rows}):,}",
        "VDNAs": f"{len(rows):,}",
        "extractors": ", ".join(sorted({row["extractor"] for row in rows})),
        "images": f"{sum(row['images'] for row in rows):,}",
    }
    first = cards.table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows[:SHOWN]])
    more = f"<p>and {len(rows) - SHOWN:,} more: cat.index()</p>" if len(rows) > SHOWN else ""
    return cards.card(f"Catalogue at {url}", facts) + first + more
