"""What opening the site costs with a thousand datasets: a minute to make them, then one browser.

python -m bench.site                      # seconds, requests and bytes of the first view, the matrix and a pair
python -m bench.site 1000 FOLDER          # keeps the catalogue there, and uses it if it is there
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from bench.figures import Figures, figure, table
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from tests.helpers.servers import static_server
from tests.helpers.synthetic import make

DATASETS = 1000
REPEATS = 5
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SHOWN = {
    "first view": ("#/", ".map .readout"),
    "matrix": ("#/matrix", ".numbers tbody tr"),
    "pair, a layer's neurons": ("#/pair/{}/{}?layer=norm", ".overlay path"),
}
"""By page, its address and what is there once it can be used."""


def measure(datasets: int = DATASETS, folder: str = "") -> Figures:
    with tempfile.TemporaryDirectory() as temporary:
        where = folder or temporary
        if (Path(where) / "catalogue.json").exists():
            publish(Store(where))  # the site as it is now
        else:
            make(where, datasets)
        with static_server(where) as url:
            return _measure(url, [m["dataset"] for m in Store(where).manifests()])


def _measure(url: str, names: list[str]) -> Figures:
    figures: Figures = {}
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for page, (route, selector) in SHOWN.items():
            visits = [
                _visit(browser, f"{url}/site/{route.format(names[0], names[-1])}", selector) for _ in range(REPEATS)
            ]
            seconds, requests, size = zip(*visits, strict=True)
            name = f"site, {len(names)} datasets, {page}"
            figures[f"{name}: until it can be used"] = figure(seconds, "s")
            figures[f"{name}: requests"] = figure(requests, "")
            figures[f"{name}: transferred"] = figure([n / 1000 for n in size], "kB")
        browser.close()
    return figures


def _visit(browser: Any, url: str, selector: str) -> tuple[float, int, int]:
    """Seconds until a page can be used, requests and bytes, with an empty cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(sum(_sizes(request))))
    start = time.perf_counter()
    page.goto(url)
    page.wait_for_selector(selector)
    seconds = time.perf_counter() - start
    page.wait_for_load_state("networkidle")
    context.close()
    return seconds, len(sizes), sum(sizes)


def _sizes(request: Any) -> tuple[int, int]:
    sizes = request.sizes()
    return sizes["responseHeadersSize"], sizes["responseBodySize"]


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else DATASETS
    print(table(measure(count, *sys.argv[2:3])))
