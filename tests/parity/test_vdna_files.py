"""The vdna library loads our files, we load the library's files, and the distances agree."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributions import VDNA, HistogramAxes, IncompatibleError, emd, fd, nfd
from pipeline.catalogue import open_catalogue
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.errors import UserError
from pipeline.formats.vdna_files import read, read_ranges, write
from tests.helpers.hub_server import hub_server
from tests.helpers.material import ALL, FACTS, LAYERS, activations

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vdna import EMD, FD, NFD, load_vdna_from_files
    from vdna.vdnas import VDNAActivationRanges, VDNAGauss, VDNALayerGauss

# The vdna library leaves the files it reads to the garbage collector, and calls SciPy in a deprecated way.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The `disp` argument"),
]

Distance = Callable[..., float]
PAIRS = [("histogram-20", emd, EMD), ("gaussian", nfd, NFD), ("layer-gaussian", nfd, NFD), ("layer-gaussian", fd, FD)]


@pytest.mark.parametrize(("distribution", "ours", "theirs"), PAIRS)
def test_the_seed_loads_what_we_write(
    filled: Callable[..., VDNA],
    tmp_path: Path,
    distribution: str,
    ours: Callable[..., float],
    theirs: Callable[..., float],
) -> None:
    vdnas = [filled(1, samples=40), filled(2, samples=40)]
    for i, vdna in enumerate(vdnas):
        write(vdna, tmp_path / str(i), distribution)
    loaded = [load_vdna_from_files(tmp_path / str(i)) for i in range(2)]
    assert loaded[0].num_images == 40
    assert loaded[0].neurons_list == LAYERS
    assert float(theirs(*loaded)) == pytest.approx(ours(*vdnas), rel=1e-6)


@pytest.mark.parametrize("distribution", ALL)
def test_what_we_write_we_read(filled: Callable[..., VDNA], tmp_path: Path, distribution: str) -> None:
    vdna = filled(1)
    write(vdna, tmp_path / "x", distribution)
    back = read(tmp_path / "x.json", vdna.spec.ranges)
    kept = {name: array for name, array in back.state().items() if not name.startswith("histogram_")}
    for name, array in kept.items():  # the vdna library's files do not count values outside the range
        np.testing.assert_allclose(array, vdna.state()[name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert back.images == vdna.images


@pytest.mark.parametrize("kind", [VDNAGauss, VDNALayerGauss, VDNAActivationRanges])
def test_we_read_what_the_seed_writes(tmp_path: Path, kind: type) -> None:
    """Its files carry pickled junk beside the arrays; none of it is opened."""
    theirs = kind()
    maps = {k: a.transpose(1, 2)[..., None] for k, a in activations(1).items()}
    theirs.neurons_list, theirs.num_images, theirs.feature_extractor_name = dict(LAYERS), 6, "net"
    if kind is VDNAActivationRanges:
        import torch

        theirs._fit_distribution({k: torch.stack([m, m], -1) for k, m in maps.items()})
    else:
        theirs._fit_distribution({k: m.mean((2, 3), keepdim=True) for k, m in maps.items()})
    theirs.save(tmp_path / "theirs")
    back = read(tmp_path / "theirs")
    for layer in LAYERS:
        expected = theirs.get_all_neurons_in_layer_dist(layer)
        if kind is VDNAActivationRanges:
            np.testing.assert_array_equal(back.ranges(layer).minimum, expected["min"])
            np.testing.assert_array_equal(back.ranges(layer).maximum, expected["max"])
        else:
            mine = back.gaussian(layer) if kind is VDNAGauss else back.layer_gaussian(layer)
            mean, spread = mine
            np.testing.assert_allclose(mean, expected["mu"], rtol=1e-6)
            np.testing.assert_allclose(spread, expected["var" if kind is VDNAGauss else "sigma"], rtol=1e-6)


def test_what_cannot_be_held_is_refused(filled: Callable[..., VDNA], tmp_path: Path) -> None:
    vdna = filled(1)
    with pytest.raises(UserError, match="give a name without a dot"):
        write(vdna, tmp_path / "v1.0", "gaussian")
    with pytest.raises(UserError, match="this VDNA has histogram-20, gaussian"):
        write(vdna, tmp_path / "x", "histogram-30")
    vdna.distributions["histogram-20"].slots[0, 1] = 2**31  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="int32 cannot hold"):
        write(vdna, tmp_path / "x", "histogram-20")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no such file; a VDNA of the vdna library is"):
        read(tmp_path / "x")
    (tmp_path / "y.json").write_text("{}")
    with pytest.raises(UserError, match="not a VDNA of the vdna library"):
        read(tmp_path / "y")


def test_through_a_repository_of_the_hub(
    filled: Callable[..., VDNA], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, vdna = ["--catalogue", str(tmp_path / "cat")], filled(1)
    Store(catalogue[1]).put_vdna(vdna, "mine", FACTS)
    place = "hf:datasets/me/vdnas/some/mine"
    with hub_server(monkeypatch, tmp_path, []) as files:
        assert main([*catalogue, "export", "mine", "net", place, "--distribution", "histogram-20"]) == 0
        assert sorted(files) == ["datasets/me/vdnas/some/mine.json", "datasets/me/vdnas/some/mine.npz"]
        assert main([*catalogue, "ranges", "mine", "net", str(tmp_path / "ranges.json")]) == 0
        files["me/models/ranges.json"] = (tmp_path / "ranges.json").read_bytes()
        back = ["import", place, "--name", "back", "--ranges", "hf:me/models/ranges.json"]
        assert main([*catalogue, *back]) == 0
        assert (
            main([*catalogue, "export", "mine", "net", "hf:me/models/fid", "--format", "fid", "--layer", "first"]) == 0
        )
        assert "me/models/fid.npz" in files
        capsys.readouterr()
        for target, message in (("hf:me/models", "give hf:OWNER/NAME/FILE"), ("hf:you/models/x", "hf:you/models/x: ")):
            assert main([*catalogue, "export", "mine", "net", target, "--distribution", "gaussian"]) == 2
            assert message in capsys.readouterr().err
        assert main([*catalogue, "import", "hf:me/models/nothing", "--name", "x"]) == 2
        assert "error: hf:me/models/nothing: " in capsys.readouterr().err
    imported = open_catalogue(catalogue[1]).vdna("back", "net")
    np.testing.assert_array_equal(imported.histogram(), vdna.histogram())
    assert emd(imported, vdna) == 0, "what the files do not state does not hinder"


def test_published_ranges(filled: Callable[..., VDNA], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = filled(1).spec.ranges
    with hub_server(monkeypatch, tmp_path, []) as files:
        files["me/models/some/ranges.json"] = ranges.to_json().encode()
        files["me/models/other.json"] = b"{}"
        assert read_ranges("published", "hf:me/models/some/ranges.json").id == ranges.id
        assert read_ranges("hf:me/models/some/ranges.json").id == ranges.id
        for where, published, message in (
            ("published", "", "none are stated for this extractor; give a ranges file"),
            ("hf:me/models/other.json", "", "not a ranges file"),
            ("hf:me/models/nothing.json", "", "ranges=hf:me/models/nothing.json: "),
            (str(tmp_path / "nothing.json"), "", "no such file"),
        ):
            with pytest.raises(UserError, match=message):
                read_ranges(where, published)


def test_on_the_command_line(filled: Callable[..., VDNA], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue, vdna = str(tmp_path / "cat"), filled(1)
    Store(catalogue).put_vdna(vdna, "mine", FACTS)
    (tmp_path / "ranges.json").write_text(vdna.spec.ranges.to_json())
    out = str(tmp_path / "out")
    assert main(["--catalogue", catalogue, "export", "mine", "net", out, "--distribution", "histogram-20"]) == 0
    assert main(["--catalogue", catalogue, "import", f"{out}.json", "--name", "back"]) == 2
    assert "give --ranges FILE" in capsys.readouterr().err
    ranges = ["--ranges", str(tmp_path / "ranges.json")]
    assert main(["--catalogue", catalogue, "import", out, "--name", "back", *ranges]) == 0
    back = open_catalogue(catalogue).vdna("back", "net")
    np.testing.assert_array_equal(back.histogram(), vdna.histogram())
    assert main(["--catalogue", catalogue, "import", out, "--name", "../up", *ranges]) == 2
    assert "--name ../up: use letters" in capsys.readouterr().err


def test_what_the_files_state_counts(filled: Callable[..., VDNA], tmp_path: Path) -> None:
    """Crop and resize; and samples that they cannot state are not written."""
    vdna = filled(1)
    ids = {"none": "clean.2-8-none-mean0-std1", "center": "clean-pillow-8-center-mean0-std1"}
    made = {crop: VDNA(replace(vdna.spec, preprocessing=name)) for crop, name in ids.items()}
    for crop, other in made.items():
        other.load(vdna.state(), vdna.ledger)
        write(other, tmp_path / crop, "gaussian")
    settings = json.loads((tmp_path / "center.json").read_text())["data_settings"]
    assert (settings["crop_to_square_pre_resize"], settings["resize_mode"]) == ("center", "clean")
    back = {crop: read(tmp_path / crop) for crop in made}
    assert nfd(back["center"], made["center"]) < 1e-9
    for a, b in ((back["center"], made["none"]), (made["none"], back["center"]), (back["none"], back["center"])):
        with pytest.raises(IncompatibleError, match="preprocessing: "):
            nfd(a, b)
    with pytest.raises(IncompatibleError, match="cannot merge what does not state its architecture, weights"):
        back["none"].merge(read(tmp_path / "none"))
    half = VDNA(replace(made["none"].spec, precision="bf16"))
    half.load(vdna.state(), vdna.ledger)
    assert nfd(back["none"], half) < 1e-9
    every = VDNA(replace(vdna.spec, positions={"gaussian": "all"}))
    with pytest.raises(UserError, match="gaussian was made with positions=all, which these files cannot say"):
        write(every, tmp_path / "x", "gaussian")
    usual = VDNA(replace(vdna.spec, positions={"gaussian": "mean"}))
    usual.load(vdna.state(), vdna.ledger)
    assert nfd(usual, vdna) == emd(usual, vdna) == 0


@pytest.mark.parametrize(
    ("distribution", "key", "change", "message"),
    [
        ("gaussian", "var-first", lambda a: -a - 1, "var-first is negative"),
        ("layer-gaussian", "sigma-first", lambda a: -a, "negative variances"),
        ("layer-gaussian", "sigma-first", lambda a: a + np.triu(a + 1, 1), "not symmetric"),
        ("layer-gaussian", "sigma-first", lambda a: a + 99 * (1 - np.eye(len(a))), "not positive semi-definite"),
        ("activation-ranges", "min-first", lambda a: a + 99, "min-first is above max-first"),
        ("histogram-20", "first", lambda a: a * 0, "a neuron of first counted nothing"),
    ],
)
def test_what_no_images_lead_to(
    filled: Callable[..., VDNA], tmp_path: Path, distribution: str, key: str, change: Callable[..., Any], message: str
) -> None:
    vdna = filled(1)
    write(vdna, tmp_path / "x", distribution)
    with np.load(tmp_path / "x.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "x.npz", **{**arrays, key: change(arrays[key])})
    with pytest.raises(UserError, match=message):
        read(tmp_path / "x", vdna.spec.ranges)


def test_ranges_give_the_seed_the_same_axes(filled: Callable[..., VDNA], tmp_path: Path) -> None:
    from vdna.networks.feature_extraction_model import get_pre_hist_norm_params_from_min_max

    axes = filled(1).spec.ranges
    text = axes.to_vdna_json()
    assert HistogramAxes.from_json(text).id == axes.id
    means, stds = get_pre_hist_norm_params_from_min_max(json.loads(text), 1.2)
    np.testing.assert_allclose(
        np.concatenate([m.flatten() for m in means.values()]), axes.centre, rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(np.concatenate([s.flatten() for s in stds.values()]), axes.half_width, rtol=1e-12)


def test_places_that_cannot_be(filled: Callable[..., VDNA], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = ["--catalogue", str(tmp_path / "cat")]
    Store(catalogue[1]).put_vdna(filled(1), "mine", FACTS)
    (tmp_path / "file").write_text("")
    for command in (["export"], ["ranges"], ["export", "--format", "fid", "--layer", "first"]):
        options = command[1:] or (["--distribution", "gaussian"] if command == ["export"] else [])
        for out in (str(tmp_path / "file" / "x"), "/", ""):
            assert main([*catalogue, command[0], "mine", "net", out, *options]) == 2, (command, out)
            assert capsys.readouterr().err.startswith("error: ")
