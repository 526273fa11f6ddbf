"""The vdna library's interface on our engine: what its own tests do, and its own numbers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from distributions import HistogramAxes
from pipeline import make_vdna
from pipeline.compat.vdna import EMD, FD, NFD, VDNA, VDNAProcessor, load_vdna_from_files, load_vdna_from_hub
from pipeline.compat.vdna.processor import _images
from pipeline.errors import UserError
from pipeline.measure.make import remedy
from tests.helpers.hub_server import hub_server
from tests.parity.test_zoo import SETTINGS, mugs, patched, spread  # type: ignore[attr-defined]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import vdna as seed
    from vdna.utils.settings import DataSettings
    from vdna.vdnas import get_vdna

pytestmark = [
    pytest.mark.filterwarnings("ignore:device=cuda"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
NAMES = ("histogram-1000", "histogram-50", "gaussian", "layer-gaussian", "activation-ranges")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deeper").mkdir()
    for name in ("chelsea", "coffee", "astronaut", "rocket"):
        place = folder / "deeper" if name == "rocket" else folder
        Image.fromarray(getattr(skimage.data, name)()).save(place / f"{name}.png")
    (folder / "notes.md").write_text("no image")
    (folder / "files.txt").write_text("coffee.png\nchelsea.png\n")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save({"state_dict": spread(mugs.vit_small(num_relation_blocks=1)).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def ranges(pictures: Path, weights: Path) -> HistogramAxes:
    """As the vdna library would have published them."""
    seen = make_vdna(pictures, "mugs_vit_small", ["activation-ranges"], weights=str(weights))
    extremes = {side: getattr(seen.ranges(), f"{side}imum") for side in ("min", "max")}
    return HistogramAxes(seen.layers, *(side.astype(np.float64) for side in extremes.values()), "scale")  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def processor(weights: Path, ranges: HistogramAxes) -> VDNAProcessor:
    return VDNAProcessor(ranges=ranges, weights=str(weights))


def made(processor: VDNAProcessor, source: object, name: str, **options: object) -> VDNA:
    return processor.make_vdna(source=source, distribution_name=name, feat_extractor_name="mugs_vit_small", **options)


@pytest.fixture(scope="module")
def theirs(pictures: Path, weights: Path, ranges: HistogramAxes, tmp_path_factory: pytest.TempPathFactory) -> seed.VDNA:
    """The vdna library's network with these weights; it fills the library's VDNAs."""
    file = tmp_path_factory.mktemp("ranges") / "ranges.json"
    file.write_text(ranges.to_json())
    with patched(mugs, hf_hub_download=lambda repo_id, filename: str(weights)):
        network = mugs.MugsViTFeatExtractor("small", SETTINGS)
    limits = json.loads(file.read_text())
    from vdna.networks.feature_extraction_model import get_pre_hist_norm_params_from_min_max

    network.norm_means_per_layer, network.norm_stds_per_layer = get_pre_hist_norm_params_from_min_max(limits, 1.2)
    network.name = "mugs_vit_small"
    network.extraction_settings.num_workers = 0
    network.extraction_settings.verbose = False
    return network.eval()


@pytest.mark.parametrize("name", ["histogram-1000", "gaussian", "layer-gaussian", "activation-ranges"])
def test_the_numbers_are_the_seeds(
    processor: VDNAProcessor, theirs: torch.nn.Module, pictures: Path, name: str, tmp_path: Path
) -> None:
    """Made by both from the same files, saved by both, and read by each other."""
    sources = [sorted(str(p) for p in pictures.rglob("*.png"))[part] for part in (slice(0, 2), slice(2, 4))]
    mine, seeds = [], []
    for number, source in enumerate(sources):
        mine.append(made(processor, source, name, batch_size=2))
        settings = theirs.extraction_settings
        for flag in ("average_feats_spatially", "accumulate_spatial_feats_in_hist", "accumulate_sample_feats_in_hist"):
            setattr(settings, flag, False)
        settings.keep_only_min_max = settings.normalise_feats = False
        other = get_vdna(name)
        other.fill_vdna(theirs, DataSettings(source=source, num_images=-1))
        seeds.append(other)
        mine[number].save(tmp_path / f"mine{number}")
        other.save(tmp_path / f"seeds{number}")
    read = [seed.load_vdna_from_files(tmp_path / f"mine{k}") for k in range(2)]
    ours = [load_vdna_from_files(tmp_path / f"seeds{k}") for k in range(2)]
    assert list(mine[0].data) == list(seeds[0].data)
    for distance, original in ((EMD, seed.EMD), (NFD, seed.NFD), (FD, seed.FD)):
        try:
            expected = original(*read)
        except AssertionError:
            with pytest.raises(AssertionError):
                distance(*mine)
            continue
        assert float(distance(*mine)) == pytest.approx(float(expected), rel=1e-6)
        assert float(distance(*ours)) == pytest.approx(float(original(*seeds)), rel=1e-6)
        assert float(distance(*mine)) == pytest.approx(float(original(*seeds)), rel=2e-3), "another resizer"
    if name == "activation-ranges":
        for layer in mine[0].data:
            for side in ("min", "max"):
                difference = (mine[0].data[layer][side] - seeds[0].data[layer][side]).abs().max()
                assert difference < 1e-3 * seeds[0].data[layer][side].abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_as_its_own_tests_do(processor: VDNAProcessor, pictures: Path, name: str, tmp_path: Path) -> None:
    arrays = [np.zeros((100, 100, 3)), np.ones((250, 70, 3))]
    v1 = made(processor, str(pictures), name, batch_size=2)
    v2 = made(processor, str(pictures / "files.txt"), name)
    v3 = made(processor, arrays, name)
    assert [v.num_images for v in (v1, v2, v3)] == [4, 2, 2]
    for vdna in (v1, v2, v3):
        for layer, neurons in vdna.neurons_list.items():
            vdna.get_all_neurons_in_layer_dist(layer)
            for neuron in (0, neurons - 1):
                vdna.get_neuron_dist(layer, neuron)
        vdna.get_all_neurons_dists()
        vdna.save(tmp_path / "saved")
        loaded = load_vdna_from_files(tmp_path / "saved", device=vdna.device)
        assert (loaded.type, loaded.name) == (vdna.type, vdna.name)
        assert loaded.extraction_settings_used == vdna.extraction_settings_used
        assert loaded.data_settings_used == vdna.data_settings_used
        assert same(loaded.data, vdna.data)
    distances = {"histogram": [EMD], "gaussian": [NFD], "layer-gaussian": [NFD, FD], "activation-ranges": []}
    for distance in distances[v1.type]:
        assert distance(v1, v2) > 1e-3 < distance(v1, v3)
        assert distance(v1, v1) <= 1e-9
        everyone = distance(v1, v2, return_neuron_wise=True)
        assert {layer: len(values) for layer, values in everyone.items()} == v1.neurons_list
        assert distance(v1, v2, "block_0", 3) == everyone["block_0"][3]
        if distance is not FD:
            assert torch.isclose(distance(v1, v2), torch.cat(list(everyone.values())).mean())
        with pytest.raises(AssertionError, match="also specify layer"):
            distance(v1, v2, use_neuron_index=3)
        with pytest.raises(AssertionError, match="block_0 has 384 neurons"):
            distance(v1, v2, "block_0", 384)
        with pytest.raises(ValueError, match="Cannot return neuron-wise"):
            distance(v1, v2, "block_0", 3, True)


RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
ALPHA = np.dstack([RGB, RGB[..., 0]])
TAKEN: dict[str, np.ndarray] = {
    "uint8": RGB,
    "one pixel": RGB[:1, :1],
    "upside down": RGB[::-1, ::-1],
    "by columns": np.asfortranarray(RGB),
    "alpha": ALPHA,
    "float64": RGB.astype(float),
    "float32 with fractions": RGB / np.float32(1.7),
    "float16": (RGB // 2).astype(np.float16),
    "whole numbers of 0 and 1": np.ones((20, 30, 3)),
    "int64": RGB.astype(np.int64),
    "uint16": RGB.astype(np.uint16),
    "alpha in floats": ALPHA / 1.5,
    "big-endian": RGB.astype(">i4"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_arrays_are_taken_as_the_seed_takes_them(name: str) -> None:
    from vdna.utils.im import ResizeDataset

    theirs = np.array(ResizeDataset(images=[TAKEN[name]])._get_image(0))[..., :3]  # its resizer reads three channels
    (ours,) = _images([TAKEN[name]], -1, False, 0)
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs)


NOT_TAKEN: dict[str, tuple[Any, str]] = {
    "grey": (RGB[..., 0], r"uint8\(20, 30\): .*np\.dstack\(\[grey\] \* 3\)"),
    "grey with a channel": (RGB[..., :1], r"uint8\(20, 30, 1\): .*np\.dstack"),
    "two channels": (RGB[..., :2], r"uint8\(20, 30, 2\): .*drops alpha"),
    "seven channels": (np.zeros((20, 30, 7), np.uint8), r"uint8\(20, 30, 7\)"),
    "channels first": (RGB.transpose(2, 0, 1), r"uint8\(3, 20, 30\): .*array\.transpose\(1, 2, 0\)"),
    "floats, channels first": (np.zeros((3, 20, 30)), r"float64\(3, 20, 30\): .*transpose.*\* 255"),
    "a batch": (RGB[None], r"uint8\(1, 20, 30, 3\): .*list\(batch\)"),
    "a number": (np.array(3), r"int64\(\): "),
    "nothing": (np.zeros((0, 5, 3), np.uint8), r"uint8\(0, 5, 3\): "),
    "from 0 to 1": (RGB / 255, r"float64\(20, 30, 3\) with values from 0 to 1: .*\* 255"),
    "normalised": (RGB / 127 - 1, r"float64\(20, 30, 3\) with values from -1 to"),
    "sixteen bits": (RGB.astype(np.uint16) * 257, r"uint16\(20, 30, 3\) with values from \d+ to 65535: .*scale"),
    "no number": (np.full((2, 2, 3), np.nan), r"float64\(2, 2, 3\) with values from nan"),
    "infinite": (np.full((2, 2, 3), np.inf), r"float64\(2, 2, 3\) with values from inf"),
    "bool": (RGB > 9, r"bool\(20, 30, 3\): .*scale"),
    "complex": (RGB * 1j, r"complex128\(20, 30, 3\)"),
    "objects": (RGB.astype(object), r"object\(20, 30, 3\)"),
    "texts": (RGB.astype(str), r"<U3\(20, 30, 3\)"),
    "tensor": (torch.from_numpy(RGB), r"tensor uint8\(20, 30, 3\): .*tensor\.cpu\(\)\.numpy\(\)"),
    "tensor, channels first": (torch.rand(3, 20, 30), r"tensor float32\(3, 20, 30\): .*transpose\(1, 2, 0\).*\* 255"),
    "bytes": (b"x", "bytes: give"),
    **{
        mode: (Image.fromarray(RGB).convert(mode), rf"PIL image {mode}\(20, 30\): .*convert\('RGB'\)")
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I", "F", "CMYK", "YCbCr", "HSV", "I;16")
    },
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_is_no_picture_as_an_array_is_refused_by_its_true_form(
    processor: VDNAProcessor, name: str, place: int
) -> None:
    thing, message = NOT_TAKEN[name]
    with pytest.raises(UserError, match=rf"^image {place} is {message}"):
        made(processor, [*[RGB] * place, thing], "gaussian")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            RGB,
            r"source is uint8\(20, 30, 3\): give a path, or a list of paths or of arrays; \[image\] is a list of one",
        ),
        (RGB[None], r"source is uint8\(1, 20, 30, 3\): give .*; list\(batch\)"),
        (torch.rand(2, 3, 4, 4), r"source is tensor float32\(2, 3, 4, 4\): give"),
        (Image.fromarray(RGB), r"source is PIL image RGB\(20, 30\): give"),
        (None, "source is NoneType: give a path"),
        (["a.png", RGB], r"image 0 is str: give \(height"),
        ([], "there are no images here"),
    ],
)
def test_sources_that_are_none(processor: VDNAProcessor, source: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(processor, source, "gaussian")


TENSORS = {
    "plain": torch.zeros(4, 5, 3),
    "of a graph": torch.zeros(4, 5, 3, requires_grad=True),
    "bfloat16": torch.zeros(4, 5, 3).bfloat16(),
    "bfloat16 of a graph": torch.zeros(4, 5, 3, dtype=torch.bfloat16, requires_grad=True),
    "sparse": torch.zeros(4, 5, 3).to_sparse(),
    "conjugated": torch.zeros(4, 5, 3, dtype=torch.complex64).conj(),
    "bytes": torch.zeros(4, 5, 3, dtype=torch.uint8),
}


@pytest.mark.parametrize("name", TENSORS)
def test_what_is_said_of_a_tensor_can_be_done(name: str) -> None:
    expression = remedy(TENSORS[name]).partition(" is an array")[0]
    assert isinstance(eval(expression, {"tensor": TENSORS[name]}), np.ndarray)


def test_an_array_of_names_has_no_remedy() -> None:
    assert remedy(np.array(["a.png", "b.png"])) == "none can be made of this"


@pytest.mark.parametrize("kind", [str, object])
def test_an_array_of_paths_is_a_list_of_them(processor: VDNAProcessor, pictures: Path, kind: type) -> None:
    paths = np.array([str(pictures / "coffee.png"), str(pictures / "chelsea.png")], dtype=kind)
    assert made(processor, paths, "gaussian").num_images == 2
    assert made(processor, paths, "gaussian", num_images=1).num_images == 1


def test_a_number_of_arrays_is_not_heeded_aloud(processor: VDNAProcessor) -> None:
    """As in the vdna library, all of them count."""
    assert made(processor, [RGB, RGB, RGB], "gaussian").num_images == 3
    with pytest.warns(UserWarning, match="of arrays all count"):
        assert made(processor, [RGB, RGB, RGB], "gaussian", num_images=2).num_images == 3


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b)


def test_a_layer_gaussian_serves_as_gaussians(processor: VDNAProcessor, pictures: Path) -> None:
    assert NFD(*(made(processor, str(pictures), name) for name in ("gaussian", "layer-gaussian"))) <= 1e-6


def test_options(processor: VDNAProcessor, pictures: Path, tmp_path: Path) -> None:
    assert made(processor, str(pictures), "gaussian", num_images=2, shuffle_files=True).num_images == 2
    assert made(processor, str(pictures), "gaussian", num_images=99).num_images == 4
    assert made(processor, [str(pictures / "coffee.png")], "gaussian", seed=42, num_workers=4).num_images == 1
    assert made(processor, pictures / "coffee.png", "gaussian", verbose=False).num_images == 1
    made(processor, str(pictures), "gaussian", save_sample_images=tmp_path / "seen", n_sample_images=3)
    seen = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert seen == ["0.png", "1.png", "2.png"]
    assert Image.open(tmp_path / "seen" / "0.png").size == (224, 224)
    crops = [
        made(processor, [np.ones((250, 70, 3)) * 9], "gaussian", crop_to_square_pre_resize=c)
        for c in ("random", "center")
    ]
    assert [vdna.data_settings_used.crop_to_square_pre_resize for vdna in crops] == ["random", "center"]


def test_what_it_cannot_do_it_says(pictures: Path, processor: VDNAProcessor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither one of .*mugs_vit_base"):
        VDNAProcessor().make_vdna(str(pictures), feat_extractor_name="mugs")
    with pytest.raises(UserError, match=r"none are stated for this extractor; give a ranges file"):
        VDNAProcessor(weights="random").make_vdna(str(pictures), feat_extractor_name="mugs_vit_small")
    with pytest.raises(UserError, match="there are no images"):
        made(processor, str(tmp_path), "gaussian")
    v1, v2 = (made(processor, str(pictures), name) for name in ("gaussian", "histogram-50"))
    with pytest.raises(AssertionError, match="EMD needs two histograms"):
        EMD(v1, v2)
    with pytest.raises(AssertionError, match="NFD needs Gaussians"):
        NFD(v1, v2)
    with pytest.raises(AssertionError, match="FD needs layer Gaussians"):
        FD(v1, v1)
    v1.save(tmp_path / "v1.0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v1.json", "v1.npz"], "as the vdna library cuts names"
    assert load_vdna_from_files(tmp_path / "v1.0").num_images == 4
    with pytest.raises(ValueError, match="unknown distribution"):
        made(processor, str(pictures), "histogramm")
    with pytest.raises(UserError, match="device=nonsense: allowed are cpu"):
        made(processor, str(pictures), "gaussian", device="nonsense")
    with pytest.raises(UserError, match="num_images=2: only of a folder"):
        made(processor, str(tmp_path / "x.zip"), "gaussian", num_images=2)


def test_the_files_are_the_seeds(processor: VDNAProcessor, pictures: Path, tmp_path: Path) -> None:
    """Links to folders are followed, what is hidden is not taken; what is no image is said."""
    folder = tmp_path / "source"
    (folder / ".checkpoints").mkdir(parents=True)
    (folder / "link").symlink_to(pictures / "deeper")
    for name in (".hidden.png", ".checkpoints/x.png", "UPPER.PNG", "x.gif"):
        Image.fromarray(skimage.data.coffee()).save(folder / name, "PNG")
    assert made(processor, str(folder), "gaussian").num_images == 2
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"1 files could not be used: \{'"):
        vdna = made(processor, str(folder), "gaussian", save_sample_images=tmp_path / "seen")
    assert vdna.num_images == 2
    assert len(list((tmp_path / "seen").iterdir())) == 2
    arrays = (np.ones((20, 20, 4)), np.ones((20, 30, 3)))
    assert made(processor, arrays, "gaussian").num_images == 2
    vdna = made(processor, [pictures / "coffee.png", pictures / "chelsea.png"], "gaussian")
    vdna.save(tmp_path / "of_paths")
    assert load_vdna_from_files(tmp_path / "of_paths").data_settings_used.source[0].endswith("coffee.png")


def test_more_than_files_can_hold(processor: VDNAProcessor, pictures: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Only what is saved has to fit into the vdna library's 32 bits."""
    monkeypatch.setattr("pipeline.formats.vdna_files.MAX_COUNT", 10)
    vdna = made(processor, str(pictures), "histogram-50")
    with pytest.raises(UserError, match="int32 cannot hold"):
        vdna.save(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_from_the_hub(
    processor: VDNAProcessor, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vdna = made(processor, str(pictures), "histogram-50")
    vdna.save(tmp_path / "it")
    with hub_server(monkeypatch, tmp_path, []) as files:
        for ending in ("json", "npz"):
            files[f"datasets/me/vdnas/some/it.{ending}"] = (tmp_path / f"it.{ending}").read_bytes()
        loaded = load_vdna_from_hub("me/vdnas", "some/it")
    assert same(loaded.data, vdna.data)
