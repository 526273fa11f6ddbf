"""The site, in a real browser, over a real catalogue behind a plain web server; and the files it draws from."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numcodecs.blosc as blosc
import numpy as np
import pytest

from distributions import emd, fd, nfd
from pipeline.store import Store
from tests import synthetic
from tests.conftest import web_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
UNPACK = """async (text) => {
    const {unpack} = await import('./blosc.js');
    const bytes = unpack(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
    let found = '';
    for (const byte of bytes) found += String.fromCharCode(byte);
    return btoa(found);
}"""
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve datasets under one spec, one of which has a hostile description, and three under one without histograms."""
    store = Store(str(tmp_path_factory.mktemp("site")))
    synthetic.fill(store, synthetic.spec_of(), synthetic.names(12))
    synthetic.fill(store, synthetic.spec_of("plain_net", ("gaussian",)), synthetic.names(3))
    first = store.manifests()[0]
    store.put_facts(first, {"description": HOSTILE, "url": "javascript:alert(1)", "licence": HOSTILE})
    synthetic.publish_for_tests(store)
    return store


class _Files(SimpleHTTPRequestHandler):
    """A plain static server: no ranges, and a 404 for what is not there."""

    root = ""
    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, directory=self.root)


@pytest.fixture(scope="module")
def site(store: Store) -> Iterator[str]:
    with web_server(type("_Served", (_Files,), {"root": store.root})) as url:
        yield f"{url}/site/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Opens a page of the site. Afterwards: nothing failed, nothing was said on the console, nobody else was asked."""
    contexts, said = [], []

    def go(route: str = "#/", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
        page.on("response", lambda answer: answer.status < 400 or said.append(f"{answer.status}: {answer.url}"))
        page.on("request", lambda request: request.url.startswith((site[:-5], "data:")) or said.append(request.url))
        page.goto(site + route)
        page.wait_for_selector("html[data-ready]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []


def names_in(page: Any) -> list[str]:
    return page.locator(".home .listing tbody th").all_inner_texts()  # type: ignore[no-any-return]


def until(page: Any, holds: str) -> None:
    """Wait until an expression is true of the page. The page's own policy forbids the library's way, which evaluates."""
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


def test_searching_filters_the_table(visit: Callable[..., Any], store: Store) -> None:
    page = visit()
    assert page.title() == "VDNA catalogue"
    assert len(names_in(page)) == 15
    some = names_in(page)[4]
    page.get_by_label("Search").fill(some)
    until(page, "document.querySelectorAll('.home .listing tbody tr').length < 15")
    assert set(names_in(page)) == {some}
    assert "q=" in page.url
    page.get_by_label("Search").fill("plain_net")
    until(page, "document.querySelectorAll('.home .listing tbody tr').length === 3")
    page.get_by_label("Search").fill("no such thing")
    page.get_by_text("0 entries found").first.wait_for()


def test_columns_sort(visit: Callable[..., Any]) -> None:
    page = visit()
    images = page.locator("th", has=page.get_by_role("button", name="Images"))
    images.get_by_role("button").click()
    assert images.get_attribute("aria-sort") == "descending"
    counts = [int(text.replace(",", "")) for text in page.locator(".listing td:nth-child(3)").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    images.get_by_role("button").click()
    assert images.get_attribute("aria-sort") == "ascending"
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert images.get_attribute("aria-sort") == "ascending"


def test_a_click_on_the_map_opens_the_dataset_that_lies_there(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Whole map").click()
    canvas = page.locator(".map canvas")
    canvas.focus()
    canvas.press("ArrowRight")
    named = page.locator(".map .readout a").inner_text()
    where = page.evaluate(
        """async (name) => {
            const {load} = await import('./data.js');
            const {DatasetMap} = await import('./map.js');
            return typeof DatasetMap === 'function' && (await load()).vdnas.some((row) => row.dataset === name);
        }""",
        named,
    )
    assert where
    # The ring around what is in focus is drawn in the accent colour: a click inside it opens what is named.
    place = page.evaluate(
        """() => {
            const canvas = document.querySelector('.map canvas');
            const probe = new OffscreenCanvas(1, 1).getContext('2d');
            probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--accent').trim();
            probe.fillRect(0, 0, 1, 1);
            const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
            const {width, height} = canvas;
            const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
            const xs = [], ys = [];
            for (let i = 0; i < data.length; i += 4)
                if (data[i] === r && data[i + 1] === g && data[i + 2] === b)
                    xs.push((i / 4) % width), ys.push(Math.floor(i / 4 / width));
            const middle = (all) => (Math.min(...all) + Math.max(...all)) / 2;
            return {x: middle(xs), y: middle(ys)};
        }"""
    )
    page.mouse.move(5, 5)
    canvas.click(position=place)
    page.get_by_role("heading", name=named, exact=True).wait_for()
    assert page.title() == f"{named} · VDNA catalogue"
    page.go_back()
    page.get_by_role("heading", name="Datasets", exact=True).wait_for()


def test_the_wheel_zooms_the_map_and_at_its_end_scrolls_the_page(visit: Callable[..., Any]) -> None:
    page = visit()
    canvas = page.locator(".map canvas")
    picture = "document.querySelector('.map canvas').toDataURL()"
    whole = page.evaluate(picture)
    canvas.hover(position={"x": 60, "y": 60})
    page.mouse.wheel(0, -300)
    until(page, f"{picture} !== {json.dumps(whole)}")
    zoomed = page.evaluate(picture)
    page.mouse.down()
    page.mouse.move(200, 400)
    page.mouse.up()
    assert page.evaluate(picture) != zoomed
    canvas.press("0")
    page.mouse.move(2, 300)
    assert page.evaluate("scrollY") == 0
    canvas.hover(position={"x": 60, "y": 60})
    page.mouse.wheel(0, 200)
    until(page, "scrollY > 0")


def test_choosing_distance_and_layer_draws_another_map(visit: Callable[..., Any]) -> None:
    page = visit()
    picture = "document.querySelector('.map canvas').toDataURL()"
    before = page.evaluate(picture)
    page.get_by_label("Layer", exact=True).select_option("norm")
    until(page, f"{picture} !== {json.dumps(before)}")
    page.get_by_label("Distance", exact=True).focus()
    page.get_by_label("Distance", exact=True).select_option("fd")
    page.wait_for_url("**metric=fd**")
    assert "layer=norm" in page.url
    until(page, "document.querySelector('.map canvas').ariaLabel.includes('FD in norm')")
    assert page.evaluate("document.activeElement.tagName") == "SELECT"


def test_a_cell_of_the_matrix_opens_its_pair_whose_numbers_are_pythons(
    visit: Callable[..., Any], store: Store
) -> None:
    page = visit("#/matrix")
    canvas = page.locator(".matrix canvas").first
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] - 6, "y": box["height"] * 0.5})
    shown = page.locator(".readout b").all_inner_texts()
    value = number(page.locator(".readout a").inner_text().removeprefix("EMD "))
    canvas.click(position={"x": box["width"] - 6, "y": box["height"] * 0.5})
    page.get_by_role("heading", name=f"{shown[0]} and {shown[1]}").wait_for()
    spec = synthetic.spec_of()
    v, w = (store.get_vdna(store.manifest(name, spec.extractor, spec.id) or {}) for name in shown)
    cards = page.locator(".card .value")
    cards.first.wait_for()
    found = [number(text) for text in cards.all_inner_texts()]
    assert found == pytest.approx([emd(v, w), nfd(v, w), fd(v, w)], rel=1e-3)
    assert value == pytest.approx(emd(v, w), rel=1e-3)
    rows = page.locator(".bylayer tbody tr")
    for i, layer in enumerate(spec.layers):
        cells = [number(text) for text in rows.nth(i).locator("td.number").all_inner_texts()]
        assert cells[1:] == pytest.approx([f(v, w, layer=layer) for f in (emd, nfd, fd)], rel=1e-3)


def test_the_mean_of_several_layers_is_weighted_as_overall(visit: Callable[..., Any], store: Store) -> None:
    a, b, v, w = pair_of(store)
    expected = (16 * emd(v, w, layer="block_1") + 24 * emd(v, w, layer="norm")) / 40
    page = visit(f"#/matrix?layers=block_1,norm&near={a}&order=near")
    page.get_by_text("12 datasets by EMD").wait_for()
    line = page.locator(".numbers tbody tr", has=page.get_by_role("link", name=b, exact=True))
    assert number(line.locator("td").inner_text()) == pytest.approx(expected, rel=1e-3)
    page.locator(".drop summary").click()
    page.get_by_role("checkbox", name="norm").uncheck()
    until(page, "document.querySelector('.intro .muted').textContent.includes('; block_1 of')")
    expected = emd(v, w, layer="block_1")
    assert number(line.locator("td").inner_text()) == pytest.approx(expected, rel=1e-3)


def test_neurons_are_compared_from_the_published_histograms(visit: Callable[..., Any], store: Store) -> None:
    a, b, v, w = pair_of(store)
    expected = emd(v, w, per_neuron=True)["block_1"]
    page = visit(f"#/pair/{a}/{b}")
    page.get_by_role("button", name="block_1").click()
    lines = page.locator(".ranked tbody tr")
    lines.first.wait_for()
    shown = [(int(r.locator("th").inner_text()), number(r.locator("td.number").inner_text())) for r in lines.all()]
    assert [neuron for neuron, _ in shown] == np.argsort(-expected)[:12].tolist()
    assert [value for _, value in shown] == pytest.approx(np.sort(expected)[::-1][:12].tolist(), rel=1e-3)
    assert number(page.locator(".mean").inner_text()) == pytest.approx(emd(v, w, layer="block_1"), rel=1e-3)
    chosen = shown[3][0]
    page.get_by_role("button", name=str(chosen), exact=True).click()
    assert f"neuron={chosen}" in page.url
    heading = page.get_by_role("heading", name=re.compile(f"^Neuron {chosen}\\b"))
    assert number(heading.locator(".measured").inner_text().removeprefix("EMD ")) == pytest.approx(
        emd(v, w, layer="block_1", neuron=chosen), rel=1e-3
    )
    page.get_by_text("These numbers as a table").click()
    cells = page.locator(".scroll td:nth-child(3)").all_inner_texts()
    assert sum(number(text) for text in cells if text != "0 %") == pytest.approx(100, abs=0.5)
    page.get_by_label("Go to neuron").fill("5")
    page.get_by_label("Go to neuron").press("Enter")
    page.get_by_role("heading", name=re.compile("^Neuron 5")).wait_for()
    page.get_by_role("button", name="Swap").click()
    page.get_by_role("heading", name=f"{b} and {a}").wait_for()
    page.get_by_role("heading", name=re.compile("^Neuron 5")).wait_for()


def test_every_neuron_is_pythons_to_the_last_digits(visit: Callable[..., Any], store: Store) -> None:
    a, b, v, w = pair_of(store)
    page = visit(f"#/pair/{a}/{b}")
    script = """async ([a, b, id, layer]) => {
        const {load} = await import('./data.js');
        const {read} = await import('./neurons.js');
        const catalogue = await load();
        const rows = [a, b].map((name) => catalogue.vdna(name, id));
        return Array.from((await read(catalogue, rows, catalogue.specs[id], layer, () => {})).distances);
    }"""
    for layer, expected in emd(v, w, per_neuron=True).items():
        found = page.evaluate(script, [a, b, synthetic.spec_of().id, layer])
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_without_histograms_neurons_are_compared_by_their_gaussians(visit: Callable[..., Any], store: Store) -> None:
    spec = synthetic.spec_of("plain_net", ("gaussian",))
    first, second, _ = [m for m in store.manifests() if m["spec"] == spec.id]
    v, w = store.get_vdna(first), store.get_vdna(second)
    page = visit(f"#/pair/{first['dataset']}/{second['dataset']}?spec={spec.id}&layer=norm&neuron=7")
    heading = page.get_by_role("heading", name=re.compile("^Neuron 7"))
    shown = number(heading.locator(".measured").inner_text().removeprefix("NFD "))
    assert shown == pytest.approx(nfd(v, w, layer="norm", neuron=7), rel=1e-3)
    assert page.locator(".overlay path").count() == 4


def test_a_dataset_says_everything_and_is_shown_as_text(visit: Callable[..., Any], store: Store) -> None:
    manifest = store.manifests()[0]
    page = visit(f"#/dataset/{manifest['dataset']}")
    assert page.locator(".lead").inner_text() == HOSTILE
    assert page.locator("main img, main script").count() == 0
    text = page.locator("main").inner_text()
    for said in ("digest", "fingerprint", "weights", "preprocessing", "spec", "url"):
        assert str(manifest[said]) in text
    assert page.locator("a[href^='javascript']").count() == 0
    assert f'.vdna("{manifest["dataset"]}", "{manifest["extractor"]}", "{manifest["spec"]}")' in text
    page.get_by_role("link", name="Datasets", exact=True).click()
    page.get_by_role("heading", name="Datasets", exact=True).wait_for()
    assert page.locator("td.words", has_text=HOSTILE).count() == 1
    assert "taken" not in page.title()


def test_the_nearest_are_those_of_the_matrix(visit: Callable[..., Any], store: Store) -> None:
    a, _, _, _ = pair_of(store)
    spec = synthetic.spec_of()
    distances = store.get_distances(spec.extractor, spec.id)
    assert distances is not None
    page = visit(f"#/dataset/{a}")
    page.get_by_label("Distance", exact=True).select_option("fd")
    page.get_by_label("Layer", exact=True).select_option("block_1")
    page.wait_for_url("**layer=block_1**")
    page.get_by_text("FD (squared activation)").wait_for()
    row = distances["fd"].sel(dataset=a, layer="block_1").drop_sel(other=a).to_series().sort_values()
    until(page, f"document.querySelector('.near tbody a').textContent === {json.dumps(row.index[0])}")
    assert page.locator(".near tbody th").all_inner_texts() == row.index[:10].tolist()
    shown = [number(text) for text in page.locator(".near td.number").all_inner_texts()]
    assert shown == pytest.approx(row.to_numpy()[:10].tolist(), rel=1e-3)


def test_keys_alone_lead_from_the_map_to_a_neuron(visit: Callable[..., Any]) -> None:
    page = visit()
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    _tab_to(page, "document.activeElement.matches('.map canvas')")
    press("ArrowDown")
    named = page.locator(".map .readout a").inner_text()
    press("Enter")
    page.get_by_role("heading", name=named, exact=True).wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"
    _tab_to(page, "document.activeElement.matches('.near td a')")
    press("Enter")
    page.get_by_role("heading", name=re.compile(f"^{named} and ")).wait_for()
    page.locator(".bylayer button").first.wait_for()
    _tab_to(page, "document.activeElement.matches('.bylayer button')")
    press("Enter")
    page.locator(".ranked tbody tr").first.wait_for()
    _tab_to(page, "document.activeElement.matches('[data-neuron]')")
    press("Enter")
    assert "neuron=" in page.url
    press("Shift+Tab")
    page.goto(page.url.split("#")[0] + "#/matrix")
    page.get_by_text("datasets by EMD").wait_for()
    _tab_to(page, "document.activeElement.matches('.matrix canvas')")
    press("ArrowDown")
    press("+")
    press("ArrowRight")
    press("ArrowRight")
    pair = page.locator(".readout b").all_inner_texts()
    press("Enter")
    page.get_by_role("heading", name=f"{pair[0]} and {pair[1]}").wait_for()


def _tab_to(page: Any, there: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(there):
            return
    pytest.fail(f"no Tab leads to {there}")


def test_dark_is_the_systems_or_ones_own_choice(visit: Callable[..., Any]) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    page = visit(color_scheme="dark")
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Light colours").click()
    light = page.evaluate(paper)
    assert light != dark
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(paper) == light
    assert visit().evaluate(paper) == light


@pytest.mark.parametrize("route", ["#/", "#/matrix", "#/dataset/{a}", "#/pair/{a}/{b}?layer=norm"])
def test_a_phone_scrolls_only_downwards(visit: Callable[..., Any], store: Store, route: str) -> None:
    a, b, _, _ = pair_of(store)
    page = visit(route.format(a=a, b=b))
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_cannot_be_shown_is_said(browser: Any, store: Store, site: str, tmp_path: Path) -> None:
    page = browser.new_page()
    page.route("**/catalogue.json", lambda route: route.fulfill(json={"format": 3}))
    page.goto(site)
    page.get_by_text("This catalogue has format 3, and this page reads format 2.").wait_for()
    page.unroute("**/catalogue.json")
    page.route("**/index/*", lambda route: route.fulfill(body=b"\x1f\x8b damaged"))
    page.goto("about:blank")
    page.goto(site)
    page.get_by_text("is damaged").wait_for()
    page.route("**/catalogue.json", lambda route: route.abort())
    page.goto("about:blank")
    page.goto(site)
    page.get_by_text("catalogue.json cannot be fetched.").wait_for()
    page.goto(f"file://{store.root}/site/index.html")
    page.get_by_text("python -m http.server").wait_for()
    page.goto(f"{site}#/dataset/nothing")
    page.close()


def test_a_changed_chunk_is_not_believed(browser: Any, store: Store, site: str) -> None:
    a, b, _, _ = pair_of(store)
    page = browser.new_page()
    page.route("**/histogram/c/**", lambda route: route.fulfill(body=b"0" * 100))
    page.goto(f"{site}#/pair/{a}/{b}?layer=norm")
    page.get_by_text("is not what was published").wait_for()
    page.close()


def test_chunks_unpack_as_in_numcodecs(visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blosc, "use_threads", True)  # or it does not look at BLOSC_SPLITMODE
    page = visit()
    generator = np.random.default_rng(0)
    flat, noise = generator.poisson(3, 20_003), generator.integers(0, 2**60, 3000)
    flags = set()
    for mode in ("ALWAYS", "NEVER"):
        monkeypatch.setenv("BLOSC_SPLITMODE", mode)
        for kind in ("<u8", "<u4", "u1"):
            for values in (flat, noise, flat[:7]):
                for shuffle, block in ((1, 0), (0, 0), (1, 4096)):
                    array = values.astype(kind)
                    packed = blosc.Blosc("zstd", 3, shuffle, block).encode(array)
                    flags.add((packed[2] & 2, packed[2] & 16))
                    found = page.evaluate(UNPACK, base64.b64encode(packed).decode())
                    assert base64.b64decode(found) == array.tobytes()
    assert len(flags) >= 3  # copied; split; in one stream
