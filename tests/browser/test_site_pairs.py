"""The site in a real browser: pairs, layers and neurons, whose numbers are Python's."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

import numcodecs.blosc as blosc
import numpy as np
import pytest

from distributions import emd, fd, nfd
from pipeline.catalogue.writer import Store
from tests.helpers import browsing, synthetic
from tests.helpers.browsing import WHOLE, number, pair_of, until

pytestmark = browsing.NEEDED
UNPACK = """async (text) => {
    const {unpack} = await import(new URL('blosc.js', document.querySelector('script[type=module]').src).href);
    const bytes = unpack(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
    let found = '';
    for (const byte of bytes) found += String.fromCharCode(byte);
    return btoa(found);
}"""


def test_a_cell_of_the_matrix_opens_its_pair_whose_numbers_are_pythons(visit: Callable[..., Any], store: Store) -> None:
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
    distances = [number(text) for text in cards.all_inner_texts()]
    assert distances == pytest.approx([emd(v, w), nfd(v, w), fd(v, w)], rel=1e-3)
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


def test_where_only_whole_layers_were_measured_there_is_no_neuron_to_choose(visit: Callable[..., Any]) -> None:
    (a, _), (b, _) = synthetic.names(2)
    page = visit(f"#/pair/{a}/{b}?spec={WHOLE.id}&layer=norm")
    page.get_by_text("only whole layers were measured").wait_for()
    assert page.locator(".bylayer tbody th").all_inner_texts() == list(WHOLE.layers)
    assert page.locator(".bylayer tbody button").count() == 0
    assert page.locator(".neurons").inner_text() == ""


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
    page.locator(".scroll tbody td").first.wait_for()
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
        const {load} = await import(new URL('data.js', document.querySelector('script[type=module]').src).href);
        const {read} = await import(new URL('neurons.js', document.querySelector('script[type=module]').src).href);
        const catalogue = await load();
        const rows = [a, b].map((name) => catalogue.vdna(name, id));
        return Array.from((await read(catalogue, rows, catalogue.specs[id], layer, () => {})).distances);
    }"""
    for layer, expected in emd(v, w, per_neuron=True).items():
        distances = page.evaluate(script, [a, b, synthetic.spec_of().id, layer])
        np.testing.assert_allclose(distances, expected, rtol=1e-9)


def test_without_histograms_neurons_are_compared_by_their_gaussians(visit: Callable[..., Any], store: Store) -> None:
    spec = synthetic.spec_of("plain_net", ("gaussian",))
    first, second, _ = [m for m in store.manifests() if m["spec"] == spec.id]
    v, w = store.get_vdna(first), store.get_vdna(second)
    page = visit(f"#/pair/{first['dataset']}/{second['dataset']}?spec={spec.id}&layer=norm&neuron=7")
    heading = page.get_by_role("heading", name=re.compile("^Neuron 7"))
    shown = number(heading.locator(".measured").inner_text().removeprefix("NFD "))
    assert shown == pytest.approx(nfd(v, w, layer="norm", neuron=7), rel=1e-3)
    assert page.locator(".overlay path").count() == 4


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
                    unpacked = page.evaluate(UNPACK, base64.b64encode(packed).decode())
                    assert base64.b64decode(unpacked) == array.tobytes()
    assert len(flags) >= 3  # copied; split; in one stream
