"""Pictures of VDNAs, comparisons and matrices, and what Jupyter and a terminal show of them."""

from __future__ import annotations

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from distributions import VDNA, HistogramAxes, ShardRecord, Spec, View
from distributions.comparison import Comparison, compare
from distributions.plots import of_comparison, of_matrix, of_view
from distributions.plots.matrices import clustered
from distributions.plots.paper import printable, shorten
from pipeline.catalogue import open_catalogue
from pipeline.catalogue.matrix import Matrix
from tests.helpers import synthetic

HOSTILE = "<script>alert('x')</script> $\\frac$ & \"日本\" \x00\n"


KINDS = (
    ("histogram-20", "gaussian", "layer-gaussian", "activation-ranges"),
    ("histogram-1000",),
    ("gaussian",),
    ("layer-gaussian",),
    ("activation-ranges",),
)


def vdna(seed: int, distributions: tuple[str, ...] = KINDS[0], layers: dict[str, int] | None = None) -> VDNA:
    layers = layers or {"first": 5, "second": 3}
    neurons = sum(layers.values())
    ranges = HistogramAxes(layers, np.full(neurons, -3.0), np.full(neurons, 4.0))
    has = any(name.startswith("histogram") for name in distributions)
    made = VDNA(Spec("net", "arch", "w", "clean", "fp32", layers, distributions, ranges if has else None))
    generator = torch.Generator().manual_seed(seed)
    for layer, number in layers.items():
        made.update(layer, torch.randn(12, 4, number, generator=generator) + seed / 4)
    made.ledger.add(ShardRecord(f"shard-{seed}", size=1, counted=12))
    return made


def matrix(values: np.ndarray, names: list[str]) -> Matrix:
    coordinates = {"dataset": np.array(names, dtype=object), "other": np.array(names, dtype=object)}
    array = xr.DataArray(values, coordinates, ("dataset", "other"), "emd", {"units": "bins"})
    return Matrix(array, "emd", "bins", "net", ("first",))


def distances(number: int) -> np.ndarray:
    at = np.random.default_rng(number).normal(size=(number, 3))
    return np.linalg.norm(at[:, None] - at[None], axis=2)


def shown(of: Any) -> str:
    """What Jupyter gets: small, with nothing of a name that is not escaped, and a picture that opens."""
    html: str = of._repr_html_()
    assert len(html) < 200_000
    assert "<script" not in html
    assert "\x00" not in html
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert picture
    with Image.open(BytesIO(base64.b64decode(picture[1]))) as opened:
        opened.load()
    ElementTree.fromstring(html)  # every tag is closed
    return html


def check_saves(of: View | Comparison | Matrix, folder: Path) -> None:
    of.save(folder / "picture.png")
    of.save(str(folder / "picture.SVG"))
    of.save(folder / "picture.pdf")
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.parse(folder / "picture.SVG").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert (folder / "picture.pdf").read_bytes().startswith(b"%PDF-")
    for name in ("picture.jpg", "picture", ".png", "picture.png.txt"):
        with pytest.raises(ValueError, match=r"ends in \.png, \.svg or \.pdf"):
            of.save(folder / name)
    assert len(list(folder.iterdir())) == 3


def check_draws(of: View | Comparison | Matrix, folder: Path) -> None:
    """The same picture is drawn for every format; this is the quickest."""
    of.save(folder / "picture.svg")
    assert ElementTree.parse(folder / "picture.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("kinds", KINDS)
def test_a_vdna(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    made = vdna(1, kinds)
    check_saves(made, tmp_path)
    html = shown(made)
    assert "12" in html
    assert kinds[0] in html
    assert repr(made) == "<VDNA by net: 12 images, 2 layers>"


@pytest.mark.parametrize("kinds", KINDS[:4])
def test_a_comparison(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    comparison = compare(vdna(1, kinds), vdna(4, kinds), (HOSTILE, "other"))
    check_saves(comparison, tmp_path)
    html = shown(comparison)
    assert "&lt;script&gt;" in html
    words = repr(comparison)
    layer, neuron, _ = comparison.most(1)[0]
    assert f"{layer} · {neuron} (" in words
    for metric, value in comparison.overall.items():
        assert f"{metric} {value:.4g} " in words


@pytest.mark.parametrize("number", [1, 2, 5, 60])
def test_a_matrix(tmp_path: Path, number: int) -> None:
    of = matrix(distances(number), [HOSTILE, *(f"dataset-{i}" for i in range(1, number))])
    check_saves(of, tmp_path)
    assert f"between {number} datasets" in shown(of)
    assert repr(of).startswith(f"<EMD in bins between {number} datasets, net>\n")
    assert len(repr(of).splitlines()) < 20


def test_what_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    values = distances(5)
    values[1, 3] = values[3, 1] = np.nan
    check_saves(matrix(values, list("abcde")), tmp_path)
    check_saves(matrix(np.full((3, 3), np.nan), list("abc")), tmp_path)
    check_saves(matrix(np.zeros((3, 3)), list("abc")), tmp_path)
    comparison = compare(vdna(1), vdna(2))
    comparison.neurons["emd"]["first"][:2] = np.nan
    comparison.layers["emd"]["first"] = np.nan
    most = [neuron.distance for neuron in comparison.most()]
    assert most[:6] == sorted(most[:6], reverse=True)
    assert np.isnan(most[6:]).all()
    assert "layers that differ most: second" in repr(comparison)
    check_saves(comparison, tmp_path)


def test_alike_datasets_stand_side_by_side() -> None:
    at = np.array([0.0, 10.0, 0.1, 10.1, 0.2])
    order, tree = clustered(np.abs(at[:, None] - at[None]))
    assert np.abs(np.diff(at[order])).max() > 9  # one step between the two groups
    assert (np.abs(np.diff(at[order])) > 1).sum() == 1
    assert len(tree) == 4


def test_layers_of_one_neuron_constants_and_nothing_counted(tmp_path: Path) -> None:
    check_draws(vdna(1, layers={"only": 1}), tmp_path)
    check_draws(compare(vdna(1, layers={"only": 1}), vdna(2, layers={"only": 1})), tmp_path)
    for kinds in KINDS:
        check_draws(VDNA(vdna(1, kinds).spec), tmp_path)
        constant = VDNA(vdna(1, kinds).spec)
        for layer, neurons in constant.layers.items():
            constant.update(layer, torch.full((3, 2, neurons), 0.5))
        check_draws(constant, tmp_path)
        if kinds != KINDS[-1]:
            check_draws(compare(constant, constant), tmp_path)
    flat = HistogramAxes({"first": 2}, np.zeros(2), np.zeros(2))
    dead = VDNA(Spec("net", "arch", "w", "clean", "fp32", {"first": 2}, ("histogram-10",), flat))
    dead.update("first", torch.zeros(3, 2, 2))
    check_draws(dead, tmp_path)
    check_draws(compare(dead, dead), tmp_path)


def test_layers_that_are_named(tmp_path: Path) -> None:
    made = vdna(1, layers={f"blocks.{i}": 3 for i in range(30)})
    assert len(of_view(made, ["blocks.7"]).axes) == 1
    assert len(of_view(made).axes) == 6
    made.save(tmp_path / "named.png", layers=["blocks.7", "blocks.8"])
    with pytest.raises(ValueError, match="unknown layer"):
        made.save(tmp_path / "unknown.png", layers=["nothing"])
    with pytest.raises(ValueError, match="name at least one"):
        made.save(tmp_path / "none.png", layers=[])


def test_fd_alone_has_no_neurons(tmp_path: Path) -> None:
    comparison = compare(vdna(1), vdna(2), metrics=["fd"])
    check_saves(comparison, tmp_path)
    assert "neurons" not in repr(comparison)
    assert len(of_comparison(comparison).axes) == 1


def test_the_same_picture_each_time_and_in_any_thread(tmp_path: Path) -> None:
    made = vdna(1)

    def drawn(number: int) -> bytes:
        made.save(tmp_path / f"{number}.png")
        return (tmp_path / f"{number}.png").read_bytes()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(drawn, range(6)))) == 1


def test_names_in_letters_that_there_are() -> None:
    assert printable("a\nb\x00 日") == "a b\N{WHITE SQUARE} \N{WHITE SQUARE}"
    assert shorten("a-name-that-is-long", 10) == "a-name…ong"
    assert shorten("short", 10) == "short"


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="between 3 datasets"):
        of_matrix(distances(2), list("abc"), "EMD", "bins")


def test_of_a_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.make(tmp_path / "catalogue", 4)
    cat = open_catalogue(str(tmp_path / "catalogue"))
    name = str(cat.index()["dataset"][0])
    stored = cat.vdna(name, "vit_small")
    asked: list[str] = []
    rows = type(stored).rows
    monkeypatch.setattr(type(stored), "rows", lambda self, array, part: asked.append(array) or rows(self, array, part))
    html = shown(stored)
    assert name in html
    assert set(asked) <= {"histogram", "bin_low", "bin_high"}
    shown(cat.matrix("vit_small"))
    shown(cat.compare(*map(str, cat.index()["dataset"][:2]), extractor="vit_small"))
    cat._rows[0]["dataset"] = HOSTILE
    html = cat._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
