"""Back and Forward of the browser undo and repeat each choice on the site."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from tests.helpers import browsing, synthetic
from tests.helpers.browsing import HOSTILE, PLAIN, pair_of, until
from tests.helpers.servers import static_server

pytestmark = browsing.NEEDED


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A site of more datasets than a table shows at first."""
    store = Store(str(tmp_path_factory.mktemp("long")))
    synthetic.fill(store, synthetic.spec_of(distributions=("gaussian",)), synthetic.names(130), 4)
    publish(store)
    with static_server(store.root) as url:
        yield f"{url}/site/"


@pytest.fixture
def open_long(browser: Any, long: str) -> Iterator[Callable[[str], Any]]:
    context, messages = browser.new_context(viewport={"width": 1280, "height": 900}), []

    def go(route: str) -> Any:
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(long + route)
        page.wait_for_selector("html[data-ready]")
        return page

    yield go
    context.close()
    assert messages == []


LINES = "document.querySelectorAll('.listing tbody tr').length"


FOCUS = "document.activeElement"


def test_back_keeps_a_longer_table(open_long: Callable[[str], Any]) -> None:
    page = open_long("#/")
    assert page.evaluate(LINES) == 100
    page.get_by_role("button", name="Show 30 more of 130").click()
    assert page.evaluate(LINES) == 130
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(100)
    y = page.evaluate("scrollY")
    last = page.locator(".listing tbody a").last
    name = last.inner_text()
    last.click()
    page.get_by_role("heading", name=name, exact=True).wait_for()
    page.go_back()
    until(page, f"{LINES} === 130")
    until(page, f"Math.abs(scrollY - {y}) <= 1")
    until(page, f"{FOCUS}.textContent === '{name}'")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(LINES) == 130
    until(page, f"Math.abs(scrollY - {y}) <= 1")
    page.go_back()  # the longer table was a step itself
    until(page, f"{LINES} === 100")
    page.go_forward()
    until(page, f"{LINES} === 130")
    until(page, f"Math.abs(scrollY - {y}) <= 1")


def test_each_choice_is_a_step_that_back_undoes(visit: Callable[..., Any]) -> None:
    page = visit()
    start = page.evaluate("history.length")
    page.evaluate("scrollTo(0, 200)")
    label = "document.querySelector('.map canvas').ariaLabel"
    page.get_by_label("Layer", exact=True).select_option("norm")
    until(page, f"{label}.includes('EMD in norm')")
    page.get_by_label("Layer", exact=True).select_option("block_1")
    until(page, f"{label}.includes('EMD in block_1')")
    page.get_by_label("Distance", exact=True).select_option("fd")
    until(page, f"{label}.includes('FD in block_1')")
    page.get_by_label("Network").focus()
    page.get_by_label("Network").select_option(PLAIN)
    until(page, f"{label}.includes('plain_net')")
    page.get_by_role("button", name="Images").click()
    assert page.url.endswith("sort=-images")
    assert page.evaluate("history.length") == start + 5
    page.go_back()
    until(page, "document.querySelector('th[aria-sort]').textContent === 'Name'")
    page.go_back()
    until(page, f"{label}.includes('FD in block_1 of vit_small')")
    assert page.get_by_label("Network").input_value() == synthetic.spec_of().id
    until(page, f"{FOCUS}.tagName === 'SELECT' && {FOCUS}.parentElement.textContent.startsWith('Network')")
    page.go_back()
    until(page, f"{label}.includes('EMD in block_1')")
    page.go_back()
    until(page, f"{label}.includes('EMD in norm')")
    assert page.get_by_label("Layer", exact=True).input_value() == "norm"
    page.go_back()
    until(page, f"{label}.includes('EMD in all layers')")
    assert page.get_by_label("Layer", exact=True).input_value() == ""
    until(page, "scrollY === 200")
    for words in ("EMD in norm", "EMD in block_1", "FD in block_1", "plain_net"):
        page.go_forward()
        until(page, f"{label}.includes('{words}')")


def test_typing_is_one_step(visit: Callable[..., Any], store: Store) -> None:
    page = visit()
    start = page.evaluate("history.length")
    page.get_by_label("Search").press_sequentially("birds", delay=150)
    until(page, "location.hash === '#/?q=birds'")
    assert page.evaluate("history.length") == start + 1
    page.get_by_label("Search").press("Enter")
    page.get_by_label("Search").press_sequentially(" x", delay=150)
    until(page, "location.hash === '#/?q=birds+x'")
    assert page.evaluate("history.length") == start + 2
    page.go_back()
    until(page, "document.querySelector('input[type=search]').value === 'birds'")
    until(page, f"{FOCUS}.type === 'search'")
    page.go_back()
    until(page, "document.querySelector('input[type=search]').value === ''")
    until(page, f"{LINES} === 12")


def test_arrow_keys_through_a_field_are_one_step_for_each_stay(visit: Callable[..., Any]) -> None:
    page = visit()
    start = page.evaluate("history.length")
    layer = page.get_by_label("Layer", exact=True)
    layer.focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    until(page, "location.hash === '#/?layer=norm'")
    assert page.evaluate("history.length") == start + 1
    page.wait_for_timeout(1100)
    page.keyboard.press("ArrowUp")
    until(page, "location.hash === '#/?layer=block_1'")
    assert page.evaluate("history.length") == start + 2
    page.go_back()
    until(page, "document.querySelector('.map canvas').ariaLabel.includes('EMD in norm')")
    until(page, f"{FOCUS}.tagName === 'SELECT' && {FOCUS}.value === 'norm'")
    page.go_back()
    until(page, "document.querySelector('.map canvas').ariaLabel.includes('EMD in all layers')")


def test_a_key_held_down_is_one_step(visit: Callable[..., Any]) -> None:
    page = visit(f"#/pair/{synthetic.names(1)[0][0]}/{synthetic.names(2)[1][0]}?layer=norm&neuron=3")
    start = page.evaluate("history.length")
    field = page.get_by_label("Go to neuron")
    field.focus()
    for _ in range(8):
        page.keyboard.down("ArrowUp")
    page.keyboard.up("ArrowUp")
    until(page, "location.hash.includes('neuron=11')")
    assert page.evaluate("history.length") == start + 1
    page.go_back()
    page.get_by_role("heading", name=re.compile("^Neuron 3")).wait_for()
    until(page, f"{FOCUS}.type === 'number' && {FOCUS}.value === '3'")


def test_back_on_a_pair_undoes_layer_and_neuron(visit: Callable[..., Any], store: Store) -> None:
    a, b, _, _ = pair_of(store)
    page = visit(f"#/pair/{a}/{b}")
    start = page.evaluate("history.length")
    page.get_by_role("button", name="norm").click()
    page.get_by_role("heading", name="Neurons of norm").wait_for()
    page.get_by_role("button", name="Show 12 more of 24").click()
    page.get_by_role("button", name="block_1").click()
    page.get_by_role("heading", name="Neurons of block_1").wait_for()
    until(page, "document.querySelectorAll('.ranked tbody tr').length === 12")
    page.locator("[data-neuron]").nth(4).click()
    assert page.evaluate("history.length") == start + 4
    page.get_by_label("Go to neuron").fill("99")
    page.get_by_label("Go to neuron").press("Enter")
    page.get_by_text("block_1 has neurons 0 to 15.").wait_for()
    assert page.evaluate("history.length") == start + 4
    page.go_back()
    until(page, "!location.hash.includes('neuron')")
    page.go_back()
    page.get_by_role("heading", name="Neurons of norm").wait_for()
    until(page, "document.querySelectorAll('.ranked tbody tr').length === 24")
    page.go_back()
    until(page, "document.querySelectorAll('.ranked tbody tr').length === 12")
    page.go_back()
    until(page, "document.querySelector('.neurons').textContent === ''")
    until(page, f"{FOCUS}.textContent === 'norm'")


def test_back_on_a_dataset_and_in_the_matrix(visit: Callable[..., Any]) -> None:
    a, b = (name for name, _ in synthetic.names(2))
    page = visit(f"#/dataset/{a}")
    page.get_by_label("Layer", exact=True).select_option("norm")
    page.wait_for_url("**layer=norm")
    page.get_by_label("Network").focus()
    page.get_by_label("Network").select_option(PLAIN)
    page.get_by_text("NFD (squared activation)").wait_for()
    until(page, f"{FOCUS}.value === '{PLAIN}'")
    page.go_back()
    page.get_by_text("EMD (bins)").wait_for()
    assert page.get_by_label("Layer", exact=True).input_value() == "norm"
    page.go_back()
    until(page, "document.querySelector('[data-name=layer] select').value === ''")
    page.goto(page.url.split("#")[0] + "#/matrix")
    heading = "document.querySelector('.intro .muted').textContent"
    page.locator(".drop summary").click()
    page.get_by_role("checkbox", name="norm").check()
    until(page, f"{heading}.includes('; norm of')")
    page.get_by_role("checkbox", name="block_1").check()
    until(page, f"{heading}.includes('; block_1, norm of')")
    page.get_by_label("Row of").fill(b)
    page.get_by_label("Row of").press("Enter")
    page.get_by_role("heading", name=f"Row of {b}").wait_for()
    page.go_back()
    until(page, f"document.querySelector('.numbers h2').textContent !== 'Row of {b}'")
    page.go_back()
    until(page, f"{heading}.includes('; norm of')")
    until(page, f"{FOCUS}.type === 'checkbox' && {FOCUS}.value === 'block_1' && !{FOCUS}.checked")
    page.go_back()
    until(page, f"{heading}.includes('; all layers of')")


def test_a_search_and_an_order_stay_when_the_page_is_loaded_again(visit: Callable[..., Any]) -> None:
    page = visit("#/")
    page.get_by_label("Search").fill("a")
    page.get_by_role("button", name="Images").click()
    before = page.locator(".listing tbody").inner_text()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator(".listing tbody").inner_text() == before
    assert HOSTILE not in page.title()
