"""Same activations in, same numbers out: against the installed vdna library (0.1.1) and torch.histc."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from distributions import VDNA, HistogramAxes, ShardRecord, Spec, emd, fd, nfd
from extractors import Preprocess
from pipeline.data.decode import decode

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vdna import EMD, FD, NFD
    from vdna.networks.feature_extraction_model import get_min_max_features, get_pre_hist_norm_params_from_min_max
    from vdna.utils.im import ResizeDataset
    from vdna.utils.stats import histogram_per_channel
    from vdna.vdnas import VDNAGauss, VDNAHist, VDNALayerGauss

pytestmark = pytest.mark.filterwarnings("ignore:Matrix is singular")  # the vdna library, if a neuron never fires

LAYERS = {"low": 16, "high": 24}
BINS = 1000
SIDE = 15  # 32 images of 15 x 15 put the vdna library on its torch.histc path
IMAGES = 32


def features(seed: int) -> dict[str, torch.Tensor]:
    """(images, neurons, height, width) float32, some neurons always zero, some never negative."""
    generator = torch.Generator().manual_seed(seed)
    maps = {k: torch.randn(IMAGES, n, SIDE, SIDE, generator=generator) * (1 + seed) + 0.3 for k, n in LAYERS.items()}
    maps["low"][:, 3] = 0
    maps["high"][:, :8].relu_()
    return maps


def ranges_file(*all_features: dict[str, torch.Tensor]) -> dict[str, dict[str, dict[str, float]]]:
    """The vdna library's ranges JSON, from one set of features so that the others leave the range."""
    sides = {"mins_per_neuron": torch.amin, "maxs_per_neuron": torch.amax}
    return {
        name: {
            k: {str(i): float(v) for i, v in enumerate(side(torch.cat([f[k] for f in all_features]), (0, 2, 3)))}
            for k in LAYERS
        }
        for name, side in sides.items()
    }


RANGES = ranges_file(features(0))


@pytest.fixture(autouse=True)
def _sqrtm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vdna library unpacks a pair from sqrtm(disp=False), but SciPy 1.16 and later do not always return a pair."""
    monkeypatch.setattr("vdna.utils.stats.sqrtm", lambda matrix, disp: (scipy.linalg.sqrtm(matrix), 0.0))


def ours(seed: int, batch: int = IMAGES) -> VDNA:
    axes = HistogramAxes.from_json(json.dumps(RANGES))
    names = (f"histogram-{BINS}", "gaussian", "layer-gaussian", "activation-ranges")
    vdna = VDNA(Spec("net", "arch", "weights", "clean", "fp32", LAYERS, names, axes))
    for layer, maps in features(seed).items():
        for part in maps.split(batch):
            vdna.update(layer, part.flatten(2).transpose(1, 2))
    vdna.ledger.add(ShardRecord(f"shard-{seed}", counted=IMAGES))
    return vdna


def seeds(kind: type, seed: int) -> object:
    """The vdna library's VDNA of the same features, fitted by its own code."""
    maps, vdna = features(seed), kind()
    vdna.neurons_list, vdna.feature_extractor_name = dict(LAYERS), "net"
    if kind is VDNAHist:
        means, stds = get_pre_hist_norm_params_from_min_max(RANGES, 1.2)
        vdna.hist_nb_bins = BINS
        vdna.data = {
            k: histogram_per_channel((m - means[k]) / stds[k], hist_nb_bins=BINS, hist_range=[-1.0, 1.0])
            for k, m in maps.items()
        }
    else:
        vdna._fit_distribution({k: m.mean((2, 3), keepdim=True) for k, m in maps.items()})
    return vdna


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("seed", [0, 1])
def test_histograms_are_the_seeds_bit_for_bit(seed: int, batch: int) -> None:
    mine, theirs = ours(seed, batch), seeds(VDNAHist, seed)
    for layer in LAYERS:
        np.testing.assert_array_equal(mine.histogram(layer), theirs.data[layer].numpy())  # type: ignore[attr-defined]
    assert mine.histogram().sum() == IMAGES * SIDE**2 * sum(LAYERS.values())


@pytest.mark.parametrize("bins", [3, 10, 255, 1000, 1024])
def test_bins_are_torch_histcs_on_the_edges(bins: int) -> None:
    """Values exactly on the bins' edges, and one step of float beside them."""
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)
    values = torch.cat([edges, edges.nextafter(torch.tensor(2.0)), edges.nextafter(torch.tensor(-2.0))]).clamp(-1, 1)
    axes = HistogramAxes({"a": 1}, np.array([-1 + 1e-8]), np.array([1 - 1e-8]), "exact")
    assert axes.half_width[0] == 1
    assert axes.centre[0] == 0
    vdna = VDNA(Spec("net", "arch", "w", "p", "fp32", {"a": 1}, (f"histogram-{bins}",), axes))
    vdna.update("a", values.view(1, -1, 1))
    np.testing.assert_array_equal(vdna.histogram("a")[0], torch.histc(values, bins, -1, 1).numpy())


@pytest.mark.parametrize("seed", [0, 1])
def test_moments_are_the_seeds(seed: int) -> None:
    mine, neuron, layer = ours(seed, 7), seeds(VDNAGauss, seed), seeds(VDNALayerGauss, seed)
    for name in LAYERS:
        theirs = neuron.get_all_neurons_in_layer_dist(name)  # type: ignore[attr-defined]
        np.testing.assert_allclose(mine.gaussian(name).mean, theirs["mu"], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(mine.gaussian(name).variance, theirs["var"], rtol=1e-6, atol=1e-9)
        theirs = layer.get_all_neurons_in_layer_dist(name)  # type: ignore[attr-defined]
        scale = float(theirs["sigma"].abs().max())
        np.testing.assert_allclose(mine.layer_gaussian(name).mean, theirs["mu"], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(mine.layer_gaussian(name).covariance, theirs["sigma"], rtol=1e-6, atol=1e-6 * scale)


def test_extremes_are_the_seeds_exactly() -> None:
    mine, accumulated = ours(1, 7), {}
    for start in (0, 16):
        part = {k: m[start : start + 16] for k, m in features(1).items()}
        for layer in LAYERS:
            accumulated = get_min_max_features(accumulated, part, layer)
    for layer in LAYERS:
        np.testing.assert_array_equal(mine.ranges(layer).minimum, accumulated[layer][..., 0].amin((0, 2, 3)))
        np.testing.assert_array_equal(mine.ranges(layer).maximum, accumulated[layer][..., 1].amax((0, 2, 3)))


SELECTIONS = [({}, {}), ({"layer": "high"}, {"use_neurons_from_layer": "high"})]
SELECTIONS += [
    ({"layer": "low", "neuron": i}, {"use_neurons_from_layer": "low", "use_neuron_index": i}) for i in (0, 3, 15)
]


@pytest.mark.parametrize(("mine", "theirs"), SELECTIONS)
@pytest.mark.parametrize(
    ("distance", "reference", "kind", "tolerance"),
    [
        (emd, EMD, VDNAHist, 1e-9),
        (nfd, NFD, VDNAGauss, 1e-6),
        (nfd, NFD, VDNALayerGauss, 1e-6),
        (fd, FD, VDNALayerGauss, 1e-6),
    ],
)
def test_distances_are_the_seeds_in_every_selection(
    distance: object,
    reference: object,
    kind: type,
    tolerance: float,
    mine: dict[str, object],
    theirs: dict[str, object],
) -> None:
    value = distance(ours(0), ours(1), **mine)
    expected = float(reference(seeds(kind, 0), seeds(kind, 1), **theirs))
    # For a neuron that never fires, only the vdna library's float32 rounding can be compared.
    assert value == pytest.approx(expected, rel=tolerance, abs=1e-9)
    assert value > 0 or mine.get("neuron") == 3


@pytest.mark.parametrize(
    ("distance", "reference", "kind"), [(emd, EMD, VDNAHist), (nfd, NFD, VDNAGauss), (fd, FD, VDNALayerGauss)]
)
@pytest.mark.parametrize("layer", [None, "low"])
def test_per_neuron_distances_are_the_seeds(distance: object, reference: object, kind: type, layer: str | None) -> None:
    mine = distance(ours(0), ours(1), layer=layer, per_neuron=True)
    theirs = reference(seeds(kind, 0), seeds(kind, 1), use_neurons_from_layer=layer, return_neuron_wise=True)
    assert list(mine) == list(theirs)
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name].numpy(), rtol=1e-5, atol=1e-9)  # theirs are float32


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty pictures of odd sizes and modes."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for index in range(20):
        height, width = (int(n) for n in draw.integers(5, 500, 2))
        noise = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        smooth = np.add.outer(np.arange(height), np.arange(width))[..., None] % 256 // [1, 2, 3]
        picture = Image.fromarray(noise if index % 2 else smooth.astype(np.uint8))
        path = folder / f"{index}.{'png' if index % 3 else 'jpg'}"
        picture.convert(("RGB", "L")[index % 5 == 0]).save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("crop", ["none", "center"])
@pytest.mark.parametrize(("resize", "grey_levels"), [("clean-pillow", 0.0), ("clean", 0.01)])
def test_preprocessing_is_the_seeds(pictures: list[Path], crop: str, resize: str, grey_levels: float) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = ResizeDataset(
        list(map(str, pictures)), crop_to_square_pre_resize=crop, size=(224, 224), norm_mean=mean, norm_std=std
    )
    mine = Preprocess(224, mean, std, resize, crop)
    for index, path in enumerate(pictures):
        difference = (mine(decode(path.read_bytes())) - theirs[index]) * torch.tensor(std).view(3, 1, 1) * 255
        assert difference.abs().max() <= grey_levels, path.name


def test_the_seeds_ranges_file_keeps_its_order(tmp_path: Path) -> None:
    """Ten neurons or more: sorted as text, "10" would come before "2"."""
    axes = HistogramAxes.from_json(json.dumps(RANGES))
    means, stds = get_pre_hist_norm_params_from_min_max(RANGES, 1.2)
    np.testing.assert_array_equal(axes.centre, torch.cat([m.flatten() for m in means.values()]))
    np.testing.assert_array_equal(axes.half_width, torch.cat([s.flatten() for s in stds.values()]))
    assert HistogramAxes.from_json(axes.to_json()).id == axes.id
