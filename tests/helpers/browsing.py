"""A browser, a catalogue and a plain web server between them, for the site's tests.

    page = visit("#/matrix")        # afterwards: nothing failed, nothing on the console, nobody else was asked

The tests' modules take these fixtures under their names.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from tests.helpers import synthetic
from tests.helpers.servers import static_server

PLAIN = synthetic.spec_of("plain_net", ("gaussian",)).id


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDED = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
WHOLE = synthetic.spec_of("whole_net", ("layer-gaussian",))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve datasets under one spec, one with a hostile description, three of them also under one without
    histograms, and two under one of whole layers."""
    store = Store(str(tmp_path_factory.mktemp("site")))
    synthetic.fill(store, synthetic.spec_of(), synthetic.names(12))
    synthetic.fill(store, synthetic.spec_of("plain_net", ("gaussian",)), synthetic.names(3))
    synthetic.fill(store, WHOLE, synthetic.names(2))
    first, second, *_ = store.manifests()
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(picture, "JPEG")
    store.put("thumbnails/one.jpg", picture.getvalue())
    store.put_facts(
        second, {"thumbnails": ["thumbnails/one.jpg", "thumbnails/../../elsewhere.jpg", "//elsewhere/x.jpg"]}
    )
    store.put_facts(first, {"description": HOSTILE, "url": "javascript:alert(1)", "licence": HOSTILE})
    publish(store)
    return store


@pytest.fixture(scope="package")
def site(store: Store) -> Iterator[str]:
    with static_server(store.root) as url:
        yield f"{url}/site/"


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Opens a page of the site. Afterwards: nothing failed, nothing was said on the console, nobody else was asked."""
    contexts, messages = [], []

    def go(route: str = "#/", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: messages.append(f"error: {error}"))
        page.on("requestfailed", lambda request: messages.append(f"failed: {request.url}"))
        page.on("response", lambda answer: answer.status < 400 or messages.append(f"{answer.status}: {answer.url}"))
        page.on("request", lambda request: request.url.startswith((site[:-5], "data:")) or messages.append(request.url))
        page.goto(site + route)
        page.wait_for_selector("html[data-ready]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert messages == []


def until(page: Any, holds: str) -> None:
    """Wait until an expression is true of the page, whose own policy forbids the library's way of evaluating it."""
    for _ in range(100):
        if page.evaluate(holds):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never: {holds}")


def pair_of(store: Store) -> tuple[str, str, Any, Any]:
    spec = synthetic.spec_of().id
    first, *_, last = [m for m in store.manifests() if m["spec"] == spec]
    return first["dataset"], last["dataset"], store.get_vdna(first), store.get_vdna(last)


def number(text: str) -> float:
    return float(re.sub(r"[^0-9.eE+-]", "", text.split()[0]))
