"""The site in a real browser, over a real catalogue behind a plain web server: finding datasets, and whoever looks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.catalogue.writer import Store
from tests.helpers import browsing, synthetic
from tests.helpers.browsing import HOSTILE, number, pair_of, until

pytestmark = browsing.NEEDED


def names_in(page: Any) -> list[str]:
    return page.locator(".home .listing tbody th").all_inner_texts()


def test_searching_filters_the_table(visit: Callable[..., Any], store: Store) -> None:
    page = visit()
    assert page.title() == "VDNA catalogue"
    assert len(names_in(page)) == 12  # those that two networks saw have one line
    some = names_in(page)[4]
    page.get_by_label("Search").fill(some)
    until(page, "document.querySelectorAll('.home .listing tbody tr').length < 12")
    assert set(names_in(page)) == {some}
    assert "q=" in page.url
    page.get_by_label("Search").fill("plain_net")
    until(page, "document.querySelectorAll('.home .listing tbody tr').length === 3")
    page.get_by_label("Search").fill("no such thing")
    page.get_by_text("0 datasets found").first.wait_for()


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


def test_back_leads_to_where_one_was(visit: Callable[..., Any]) -> None:
    page = visit()
    page.evaluate("scrollTo(0, 500)")
    page.wait_for_timeout(100)
    page.locator(".listing tbody a").nth(6).click()
    page.get_by_role("heading", name="Open this dataset").wait_for()
    assert page.evaluate("scrollY") == 0
    page.go_back()
    page.get_by_role("heading", name="Datasets", exact=True).wait_for()
    until(page, "scrollY === 500")


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


def test_a_dataset_says_everything_and_is_shown_as_text(visit: Callable[..., Any], store: Store) -> None:
    manifest = store.manifests()[0]
    page = visit(f"#/dataset/{manifest['dataset']}")
    assert page.locator(".lead").inner_text() == HOSTILE
    assert page.locator("main img, main script").count() == 0
    text = page.locator("main").inner_text()
    for key in ("digest", "fingerprint", "weights", "preprocessing", "spec", "url"):
        assert str(manifest[key]) in text
    assert page.locator("a[href^='javascript']").count() == 0
    assert f'.vdna("{manifest["dataset"]}", "{manifest["extractor"]}", "{manifest["spec"]}")' in text
    page.get_by_role("link", name="Datasets", exact=True).click()
    page.get_by_role("heading", name="Datasets", exact=True).wait_for()
    assert page.locator("td.words", has_text=HOSTILE).count() == 1
    assert "taken" not in page.title()


def test_pictures_of_the_catalogue_are_shown_and_no_others(visit: Callable[..., Any], store: Store) -> None:
    second = store.manifests()[1]
    page = visit(f"#/dataset/{second['dataset']}?spec={second['spec']}")
    page.locator(".near h2").wait_for()
    assert page.locator(".thumbnails img").count() == 1
    until(page, "document.querySelector('.thumbnails img').naturalWidth === 8")


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


def _tab_to(page: Any, condition: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(condition):
            return
    pytest.fail(f"no Tab leads to {condition}")


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
