"""The site in a real browser: what links ask for that is not there is said, and Back undoes what was chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from tests.helpers import browsing, synthetic
from tests.helpers.browsing import PLAIN, WHOLE, pair_of, until
from tests.helpers.servers import static_server

pytestmark = browsing.NEEDED


NUMBERS = ".map, .matrix canvas, .listing, .near, .facts, .cards, .bylayer"
"""What a page has that a link is right for."""


PROTOTYPE = ("__proto__", "constructor", "toString", "hasOwnProperty", "prototype")


LETTERS = "%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D'taken'%22%3E"


def names(store: Store) -> dict[str, str]:
    """Two datasets of every network, two of one network alone, and the networks' ids."""
    a, b = (name for name, _ in synthetic.names(2))
    alone, z = (name for name, _ in synthetic.names(12)[-2:])
    return {"a": a, "b": b, "alone": alone, "z": z, "vit": synthetic.spec_of().id, "plain": PLAIN, "whole": WHOLE.id}


WRONG = [
    # a route; what is said of it; a link that is offered
    # pages
    ("#/nowhere", ["page nowhere", "no such page"], "#/matrix"),
    ("#/Matrix", ["page Matrix"], "#/matrix"),
    ("#/table?metric=fd", ["page table"], "#/"),
    ("#/%E0%A4%A", ["%E0%A4%A", "wrongly encoded"], None),
    ("#/dataset/%", ["%", "wrongly encoded"], None),
    ("#/dataset/%FF?spec=x", ["%FF", "wrongly encoded"], None),
    *((f"#/{name}", [f"page {name}"], "#/matrix") for name in PROTOTYPE),
    (f"#/{LETTERS}", ["page <img src=x onerror="], "#/"),
    ("#/?spec=nowhere", ["spec=nowhere", "no such network"], "#/?spec={vit}"),
    # networks
    ("#/matrix?spec=nowhere", ["spec=nowhere", "no such network"], "#/matrix?spec={plain}"),
    ("#/matrix?spec={vit}x&metric=fd", ["spec={vit}x"], "#/matrix?metric=fd&spec={vit}"),
    ("#/dataset/{a}?spec=nowhere", ["spec=nowhere", "{a} was not measured"], "#/dataset/{a}?spec={vit}"),
    ("#/dataset/{z}?spec={plain}", ["spec={plain}", "{z} was not measured"], "#/dataset/{z}?spec={vit}"),
    ("#/dataset/{z}?spec={plain}", ["spec={plain}"], "#/dataset/{z}"),
    ("#/pair/{a}/{z}?spec={plain}", ["spec={plain}", "not both measured"], "#/pair/{a}/{z}?spec={vit}"),
    ("#/pair/{a}/{b}?spec=nowhere&layer=norm", ["spec=nowhere"], "#/pair/{a}/{b}?layer=norm&spec={plain}"),
    *((f"#/{page}spec={name}", [f"spec={name}"], None) for page in ("?", "matrix?") for name in PROTOTYPE),
    # distances
    ("#/?metric=cosine", ["metric=cosine", "no such distance"], "#/?metric=nfd"),
    ("#/?metric=EMD", ["metric=EMD"], "#/?metric=emd"),
    ("#/matrix?metric=cosine&order=name", ["metric=cosine"], "#/matrix?order=name&metric=fd"),
    ("#/matrix?spec={plain}&metric=emd", ["metric=emd", "of plain_net"], "#/matrix?spec={plain}&metric=nfd"),
    ("#/?spec={plain}&metric=emd", ["metric=emd", "of plain_net"], "#/?spec={plain}"),
    ("#/dataset/{a}?metric=cosine", ["metric=cosine"], "#/dataset/{a}?metric=emd"),
    ("#/dataset/{a}?spec={plain}&metric=fd", ["metric=fd", "of plain_net"], "#/dataset/{a}?spec={plain}&metric=nfd"),
    ("#/pair/{a}/{b}?metric=cosine", ["metric=cosine"], "#/pair/{a}/{b}?metric=fd"),
    *((f"#/matrix?metric={name}", [f"metric={name}"], "#/matrix?metric=emd") for name in PROTOTYPE),
    # layers
    ("#/?layer=block_9", ["layer=block_9", "no such layer of vit_small"], "#/?layer=block_1"),
    ("#/?spec=nowhere&layer=block_9", ["spec=nowhere", "layer=block_9"], "#/?spec=nowhere&layer=block_0"),
    ("#/?metric=cosine&layer=block_9", ["metric=cosine", "layer=block_9"], "#/"),
    ("#/matrix?layers=norm,block_9", ["layers=norm,block_9", "block_9"], "#/matrix?layers=norm%2Cblock_1"),
    ("#/matrix?layers=norm,,block_1", ["one of these names is empty"], "#/matrix"),
    ("#/matrix?layers=norm,norm", ["named twice"], "#/matrix?layers=norm%2Cblock_0"),
    ("#/matrix?layer=norm", ["layer=norm", "no such parameter"], "#/matrix?layers=norm"),
    ("#/dataset/{a}?layer=block_9", ["layer=block_9"], "#/dataset/{a}?layer=block_0"),
    ("#/pair/{a}/{b}?layer=block_9", ["layer=block_9", "vit_small has no such layer"], "#/pair/{a}/{b}?layer=norm"),
    ("#/pair/{a}/{b}?layer=block_9&neuron=3", ["layer=block_9"], "#/pair/{a}/{b}?neuron=3&layer=norm"),
    *((f"#/dataset/{{a}}?layer={name}", [f"layer={name}"], "#/dataset/{a}?layer=norm") for name in PROTOTYPE),
    # datasets
    ("#/dataset", ["does not name a dataset"], "#/dataset/{z}"),
    ("#/dataset/", ["does not name a dataset"], "#/dataset/{z}"),
    ("#/dataset/nowhere", ["dataset nowhere", "no such dataset"], "#/dataset/{a}"),
    ("#/dataset/{a}x?metric=fd", ["dataset {a}x"], "#/dataset/{a}?metric=fd"),
    ("#/dataset/{a}/{b}", ["/{b}", "names nothing"], "#/dataset/{a}"),
    (f"#/dataset/{LETTERS}", ["dataset <img src=x onerror="], "#/dataset/{a}"),
    *((f"#/dataset/{name}", [f"dataset {name}"], "#/dataset/{a}") for name in PROTOTYPE),
    ("#/pair", ["does not name a dataset"], "#/pair/{a}"),
    ("#/pair/{a}", ["does not name the second dataset"], "#/pair/{a}/{b}"),
    ("#/pair/{a}/nowhere", ["dataset nowhere", "to compare {a} with"], "#/pair/{a}/{b}"),
    ("#/pair/nowhere/{b}", ["dataset nowhere"], "#/pair/{a}/{b}"),
    ("#/pair//{b}", ["does not name a dataset"], "#/pair/{a}/{b}"),
    ("#/pair/{a}/{b}/{z}", ["/{z}", "names nothing"], "#/pair/{a}/{b}"),
    ("#/matrix/{a}", ["/{a}", "names nothing"], "#/matrix"),
    ("#/matrix?order=near&near=nowhere", ["near=nowhere"], "#/matrix?order=near&near={z}"),
    ("#/matrix?spec={plain}&near={z}", ["near={z}"], "#/matrix?spec={plain}&near={a}"),
    # orders, lengths, neurons
    ("#/?sort=colour", ["sort=colour", "no such column"], "#/?sort=-images"),
    ("#/?sort=--name", ["sort=--name"], "#/?sort=-name"),
    ("#/matrix?order=colour", ["order=colour"], "#/matrix?order=cluster"),
    ("#/matrix?sort=colour", ["sort=colour"], "#/matrix?sort=-distance"),
    *(
        (f"#/?shown={n}", [f"shown={n}", "not a number of rows"], "#/")
        for n in ("0", "-5", "1e3", "many", "07", "Infinity")
    ),
    ("#/pair/{a}/{b}?layer=norm&neuron=24", ["neuron=24", "neurons 0 to 23"], "#/pair/{a}/{b}?layer=norm"),
    *(
        (f"#/pair/{{a}}/{{b}}?layer=norm&neuron={n}", [f"neuron={n}"], "#/pair/{a}/{b}?layer=norm")
        for n in ("-1", "1.5", "1e1", "0x5", "05", "five")
    ),
    ("#/pair/{a}/{b}?neuron=5", ["neuron=5", "no such parameter"], "#/pair/{a}/{b}"),
    ("#/pair/{a}/{b}?spec={whole}&layer=norm&neuron=5", ["neuron=5"], "#/pair/{a}/{b}?spec={whole}&layer=norm"),
    # how a link is written
    ("#/?metrc=fd", ["metrc=fd", "no such parameter"], "#/?metric=fd"),
    ("#/?extractor=vit_small", ["extractor=vit_small", "spec, metric, layer"], "#/"),
    ("#/matrix?zoom=3&order=name", ["zoom=3"], "#/matrix?order=name"),
    ("#/dataset/{a}?q=birds", ["q=birds"], "#/dataset/{a}"),
    *((f"#/?{name}=1", [f"{name}=1", "no such parameter"], "#/") for name in PROTOTYPE),
    ("#/?spec=", ["spec without a value"], "#/?spec={vit}"),
    ("#/?metric", ["metric without a value"], "#/?metric=fd"),
    ("#/matrix?layers=&order=name", ["layers without a value"], "#/matrix?order=name"),
    ("#/?=fd", ["=fd", "no such parameter"], "#/?metric=fd"),
    ("#/?metric=emd&metric=fd", ["metric 2 times: emd, fd"], "#/?metric=fd"),
    ("#/?q=a&q=b&sort=name", ["q 2 times: a, b"], "#/?sort=name&q=b"),
    ("#/?metric=fd?layer=norm", ["metric=fd?layer=norm"], "#/?metric=fd"),
    ("#/?metric=%zz", ["metric=%zz", "wrongly encoded"], "#/"),
    ("#/?layer=%ff&metric=fd", ["layer=%ff", "wrongly encoded"], "#/?metric=fd"),
    ("#/?layer=norm%E2%80%AE", [r"layer=norm\u{202e}"], "#/?layer=norm"),
    ("#/?layer=%00", [r"layer=\u{0}"], "#/?layer=norm"),
    (f"#/?layer={LETTERS}", ["layer=<img src=x onerror="], "#/?layer=norm"),
    ("#/?layer=" + 5000 * "x", ["layer=xxxx", "x…"], "#/?layer=norm"),
    ("#/?" + "&".join(f"k{i}=1" for i in range(500)), ["k0=1", "490 more"], "#/"),
]


@pytest.fixture(scope="module")
def paged(browser: Any, site: str) -> Iterator[Callable[[str], Any]]:
    """Shows routes one after the other on one page, as links are followed; nothing may be said on the console."""
    page, messages = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(f"error: {error}"))
    page.goto(site)
    page.wait_for_selector("html[data-ready]")

    def go(route: str) -> Any:
        messages.clear()
        page.evaluate("document.getElementById('main').replaceChildren()")
        page.goto(site + route)
        page.locator("main h1").wait_for()
        page.wait_for_timeout(50)
        assert messages == []
        return page

    yield go
    page.close()


@pytest.mark.parametrize(("route", "phrases", "offered"), WRONG, ids=[route[:60] for route, _, _ in WRONG])
def test_what_a_link_asks_for_that_is_not_there_is_said(
    paged: Callable[[str], Any], store: Store, route: str, phrases: list[str], offered: str | None
) -> None:
    placeholders = names(store)
    fill = lambda text: re.sub(r"\{(\w+)\}", lambda match: placeholders.get(match[1], match[0]), text)  # noqa: E731
    page = paged(fill(route))
    assert page.title() == "Not here · VDNA catalogue"
    assert page.locator("h1").inner_text() == "This link asks for something that is not here."
    text = page.locator("main").inner_text()
    for words in phrases:
        assert fill(words).lower() in text.lower()
    assert page.locator(NUMBERS).count() == 0  # nothing is shown instead
    assert page.locator("main [role=alert]").count() >= 1
    assert page.evaluate("document.activeElement.tagName") == "H1"
    assert page.locator("main img, main script").count() == 0
    if offered is not None:
        links = page.locator("main a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
        assert fill(offered) in links


RIGHT = [
    "#", "#/", "#matrix", "#/matrix/", "#/?", "#/matrix?&order=name&", "#/?q=%3Cb%3E", "#/?q=__proto__", "#/?shown=300",
    "#/?spec={plain}&metric=nfd&layer=norm&q=a+b&sort=-images&shown=200",
    "#/matrix?layers=norm,block_1&order=near&near={z}",
    "#/matrix?sort=-distance&shown=24", "#/dataset/{a}?spec={whole}&metric=fd&layer=norm", "#/pair/{a}/{a}",
    "#/pair/{a}/{b}?spec={whole}&layer=norm", "#/pair/{a}/{z}?metric=nfd&layer=norm&neuron=23&sort=neuron&shown=24",
]  # fmt: skip


@pytest.mark.parametrize("route", RIGHT)
def test_a_link_to_what_is_there_is_followed(paged: Callable[[str], Any], store: Store, route: str) -> None:
    page = paged(re.sub(r"\{(\w+)\}", lambda match: names(store)[match[1]], route))
    page.locator(".listing, .matrix, .facts, .bylayer").first.wait_for()
    assert page.locator(".failure").count() == 0


def test_the_links_that_are_offered_lead_to_what_was_meant(visit: Callable[..., Any], store: Store) -> None:
    a, b, _, _ = pair_of(store)
    page = visit(f"#/pair/{a[:-1]}/{b}?metrc=fd&layer=nrm")
    page.get_by_role("link", name=a, exact=True).click()
    page.get_by_text("metrc=fd").wait_for()
    page.get_by_role("link", name="metric=fd").click()
    until(page, "!document.body.textContent.includes('metrc')")
    page.get_by_role("link", name="norm", exact=True).click()
    page.get_by_role("heading", name="Neurons of norm").wait_for()
    assert page.get_by_label("Bars show").input_value() == "fd"
    for _ in range(3):
        page.go_back()
    page.get_by_text(f"the dataset {a[:-1]}").wait_for()


def test_a_link_of_an_earlier_state_of_the_catalogue_is_said(
    browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(str(tmp_path_factory.mktemp("earlier")))
    synthetic.fill(store, synthetic.spec_of("small_net", ("gaussian",)), synthetic.names(2))
    publish(store)
    with static_server(store.root) as url:
        page = browser.new_page()
        page.goto(f"{url}/site/#/?metric=emd&layer=block_2")
        page.get_by_text("No such distance of small_net is published here.").wait_for()
        page.get_by_text("No such layer of small_net is published here.").wait_for()
        page.get_by_text("of an earlier state of the catalogue").wait_for()
        page.close()


def test_what_another_network_has_not_got_is_said_and_no_longer_chosen(visit: Callable[..., Any]) -> None:
    page = visit("#/?metric=emd&layer=norm")
    page.get_by_label("Network").select_option(PLAIN)
    page.get_by_text("Not published for plain_net, and therefore no longer chosen: EMD.").wait_for()
    assert page.url.endswith(f"#/?spec={PLAIN}&layer=norm")
    page.get_by_label("Layer", exact=True).select_option("block_0")
    until(page, "!document.body.textContent.includes('no longer chosen')")
    a = synthetic.names(1)[0][0]
    page = visit(f"#/dataset/{a}?metric=emd&layer=norm")
    page.get_by_label("Network").select_option(WHOLE.id)
    page.get_by_text("Not published for whole_net, and therefore no longer chosen: EMD.").wait_for()
    assert page.url.endswith(f"?spec={WHOLE.id}&layer=norm")
