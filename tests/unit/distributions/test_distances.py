"""Distances: laws, known values, refusals. Parity with the vdna library is in test_parity."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch

import distributions
from distributions import VDNA, HistogramAxes, IncompatibleError, Ledger, ShardRecord, Spec, emd, fd, nfd
from distributions.distances import Factor, frechet
from distributions.moments import LayerMoments, Moments
from tests.helpers.material import LAYERS, activations, spec

DISTANCES = (emd, nfd, fd)


@pytest.mark.parametrize("distance", DISTANCES)
def test_symmetric_to_the_bit_and_zero_with_itself(filled: Callable[..., VDNA], distance: Callable[..., float]) -> None:
    a, b = filled(1), filled(2, scale=1.4)
    assert distance(a, b) == distance(b, a) > 0
    assert distance(a, a) == 0
    assert distance(a, filled(1, "elsewhere")) == 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_selections_agree(filled: Callable[..., VDNA], distance: Callable[..., object]) -> None:
    a, b = filled(1), filled(2)
    rows = distance(a, b, per_neuron=True)
    assert {layer: len(values) for layer, values in rows.items()} == LAYERS  # type: ignore[attr-defined]
    assert distance(a, b, layer="second", neuron=1) == pytest.approx(rows["second"][1])
    np.testing.assert_array_equal(distance(a, b, layer="second", per_neuron=True)["second"], rows["second"])
    if distance is not fd:
        assert distance(a, b, layer="first") == pytest.approx(rows["first"].mean())
        assert distance(a, b) == pytest.approx(np.concatenate(list(rows.values())).mean())  # type: ignore[attr-defined]
    else:
        assert distance(a, b) == pytest.approx(np.mean([distance(a, b, layer=layer) for layer in LAYERS]))


@pytest.mark.parametrize("distance", DISTANCES)
def test_wrong_selections_are_named(filled: Callable[..., VDNA], distance: Callable[..., object]) -> None:
    a, b = filled(1), filled(2)
    with pytest.raises(ValueError, match="unknown layer 'third'; layers: first, second"):
        distance(a, b, layer="third")
    with pytest.raises(ValueError, match="layer="):
        distance(a, b, neuron=0)
    with pytest.raises(IndexError, match="neurons 0 to 2"):
        distance(a, b, layer="second", neuron=3)
    with pytest.raises(IndexError, match="not -1"):
        distance(a, b, layer="second", neuron=-1)
    with pytest.raises(ValueError, match="not both"):
        distance(a, b, layer="second", neuron=0, per_neuron=True)


def test_emd_is_wasserstein_in_bins() -> None:
    """One neuron, ten bins over [0, 10]: SciPy's distance between the samples at the bins' centres."""
    axes = HistogramAxes({"a": 1}, np.array([0.0]), np.array([10.0]), "exact")
    draw = np.random.default_rng(0)
    samples = [draw.integers(0, 10, n) + 0.5 for n in (50, 80)]
    vdnas = []
    for values in samples:
        vdna = VDNA(Spec("n", "arch", "w", "p", "fp32", {"a": 1}, ("histogram-10",), axes))
        vdna.update("a", torch.from_numpy(values).float().view(1, -1, 1))
        vdnas.append(vdna)
    assert emd(*vdnas) == pytest.approx(scipy.stats.wasserstein_distance(*samples), rel=1e-12)


def test_fd_of_known_gaussians() -> None:
    """For covariances that commute it is |m1 - m2|² + |√S1 - √S2|²."""
    a = Factor.of(LayerMoments(np.zeros(3), np.diag([1.0, 4.0, 9.0])))
    b = Factor.of(LayerMoments(np.array([1.0, 2.0, 2.0]), np.diag([4.0, 1.0, 16.0])))
    assert frechet(a, b) == pytest.approx(9 + 1 + 1 + 1, rel=1e-12)


@pytest.mark.parametrize("images", [2, 5, 40])
def test_fd_is_real_and_finite_below_full_rank(images: int) -> None:
    """Fewer images than neurons: where sqrtm of the product gives NaN or imaginary parts elsewhere."""
    draw = np.random.default_rng(images)
    factors = [
        Factor.of(LayerMoments(x.mean(0), np.cov(x.T))) for x in (draw.normal(size=(images, 64)) for _ in range(2))
    ]
    value = frechet(*factors)
    assert np.isfinite(value)
    assert value > 0
    first, second = ((f.root @ f.root.T).numpy() for f in factors)
    root = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
    direct = ((factors[0].mean - factors[1].mean) ** 2).sum() + sum(f.trace for f in factors) - 2 * root
    assert value == pytest.approx(direct, rel=1e-4)


def test_nfd_from_layer_gaussians_alone(filled: Callable[..., VDNA]) -> None:
    both = nfd(filled(1), filled(2))
    diagonal = nfd(filled(1, distributions=("layer-gaussian",)), filled(2, distributions=("layer-gaussian",)))
    assert diagonal == pytest.approx(both, rel=1e-12)


def test_other_layers_are_named() -> None:
    def of(layers: dict[str, int]) -> VDNA:
        return VDNA(Spec("net", "a", "w", "p", "fp32", layers, ("gaussian",)))

    many = {f"block_{number}": 2 for number in range(6)}
    with pytest.raises(IncompatibleError) as refusal:
        nfd(of({**many, "head": 3}), of({"head": 4, "tail": 1}))
    assert (
        "(layers: only the first has block_0, block_1, block_2 and 3 more; only the second has tail; "
        "other numbers of neurons in head)"
    ) in str(refusal.value)


def test_what_was_measured_otherwise_is_not_compared(filled: Callable[..., VDNA], ranges: HistogramAxes) -> None:
    a = filled(1)
    other_ranges = filled(2, ranges=HistogramAxes(LAYERS, ranges.minimum - 1, ranges.maximum))
    with pytest.raises(IncompatibleError, match=f"activation ranges: {ranges.id} and "):
        emd(a, other_ranges)
    assert nfd(a, other_ranges) > 0  # the Gaussians know no ranges
    with pytest.raises(IncompatibleError, match=r"histogram-20.*histogram-30"):
        emd(a, filled(2, distributions=("histogram-30",)))
    with pytest.raises(IncompatibleError, match="EMD needs histograms, found gaussian"):
        emd(a, filled(2, distributions=("gaussian",)))
    with pytest.raises(IncompatibleError, match="no layer-gaussian"):
        fd(a, filled(2, distributions=("gaussian",)))
    with pytest.raises(IncompatibleError, match="weights: w and v"):
        nfd(a, VDNA(spec(ranges, weights="v")))
    with pytest.raises(IncompatibleError, match="histogram is empty"):
        emd(a, VDNA(spec(ranges)))


class TestVDNA:
    def test_merge_is_the_vdna_of_all_images(self, filled: Callable[..., VDNA], ranges: HistogramAxes) -> None:
        merged, whole = filled(1), VDNA(spec(ranges))
        merged.merge(filled(2))
        for seed in (1, 2):
            for layer, values in activations(seed).items():
                whole.update(layer, values)
        np.testing.assert_array_equal(merged.histogram(), whole.histogram())
        np.testing.assert_allclose(merged.gaussian("first").variance, whole.gaussian("first").variance, rtol=1e-12)
        assert merged.images == 12
        assert merged.ledger.skipped == {"corrupt": 2}

    def test_order_of_merges_does_not_show_in_counts_or_ledger(self, filled: Callable[..., VDNA]) -> None:
        ab, ba = (filled(s, distributions=("histogram-20", "activation-ranges")) for s in (1, 2))
        ab.merge(filled(2, distributions=("histogram-20", "activation-ranges")))
        ba.merge(filled(1, distributions=("histogram-20", "activation-ranges")))
        assert ab.digest() == ba.digest() != filled(1).digest()

    def test_no_shard_twice(self, filled: Callable[..., VDNA]) -> None:
        a = filled(1)
        before = a.digest()
        with pytest.raises(IncompatibleError, match=r"counted twice.*shard-1"):
            a.merge(filled(1))
        assert a.digest() == before

    def test_other_specs_are_refused_by_name(self, filled: Callable[..., VDNA], ranges: HistogramAxes) -> None:
        with pytest.raises(IncompatibleError, match="weights: w and v"):
            filled(1).merge(VDNA(spec(ranges, weights="v")))

    def test_every_part_of_a_spec_is_in_its_id(self, ranges: HistogramAxes) -> None:
        base = spec(ranges)
        others = [
            spec(ranges, weights="v"),
            spec(ranges, ("histogram-21", *base.distributions[1:])),
            spec(HistogramAxes(LAYERS, ranges.minimum - 1, ranges.maximum)),
            *(
                Spec(*fields, LAYERS, base.distributions, ranges)
                for fields in (
                    ("other", "arch", "w", "clean", "fp32"),
                    ("net", "other", "w", "clean", "fp32"),
                    ("net", "arch", "w", "other", "fp32"),
                    ("net", "arch", "w", "clean", "bf16"),
                )
            ),
            Spec("net", "arch", "w", "clean", "fp32", {"second": 3, "first": 5}, ("gaussian",)),
        ]
        assert len({base.id, *(other.id for other in others)}) == len(others) + 1

    def test_distributions_by_name(self, ranges: HistogramAxes) -> None:
        for name in ("histogram", "histogram-0", "histogram--5", "histogram-1e3", "Gaussian", ""):
            with pytest.raises(ValueError, match="allowed: histogram-N"):
                spec(ranges, (name,))
        with pytest.raises(ValueError, match="once"):
            spec(ranges, ("histogram-10", "histogram-20"))
        with pytest.raises(ValueError, match="need activation ranges"):
            spec(None, ("histogram-10",))

    def test_accessors_name_what_is_missing(self, filled: Callable[..., VDNA]) -> None:
        with pytest.raises(IncompatibleError, match="no histogram: it was computed with gaussian"):
            filled(1, distributions=("gaussian",)).histogram()


class TestLedger:
    def test_sums(self) -> None:
        ledger = Ledger(
            [
                ShardRecord("b", size=100, counted=8, skipped={"corrupt": 2}),
                ShardRecord("a", size=300, counted=10, damage="at byte 200", lost_bytes=100),
            ]
        )
        assert [record.url for record in ledger] == ["a", "b"]
        assert (ledger.counted, ledger.skipped, len(ledger.damaged)) == (18, {"corrupt": 2}, 1)
        assert ledger.bad_fraction == pytest.approx(0.25)  # bytes lost outweigh 2 of 20 images
        assert Ledger([ShardRecord("a", size=9, counted=8, skipped={"x": 2})]).bad_fraction == pytest.approx(0.2)
        assert Ledger().bad_fraction == 0


class TestHistogramAxes:
    def test_former_names(self) -> None:
        assert importlib.import_module("distributions.ranges") is distributions.axes is distributions.ranges
        assert distributions.ranges.Ranges is distributions.Ranges is HistogramAxes
        assert Moments(np.zeros(1), np.ones(1)).spread == 1
        assert spec(None, ("gaussian",)).network == spec(None, ("gaussian",)).network_id
        assert LayerMoments(np.zeros(1), np.ones((1, 1))).spread == 1

    def test_margin(self) -> None:
        layers = {"a": 3}
        low, high = np.array([-1.0, 2.0, 0.0]), np.array([1.0, 4.0, 0.0])
        widened, scaled = HistogramAxes(layers, low, high), HistogramAxes(layers, low, high, "scale")
        np.testing.assert_allclose(widened.low, [-1.2, 1.8, 0])
        np.testing.assert_allclose(widened.high, [1.2, 4.2, 0])
        np.testing.assert_allclose(scaled.low, [-1.2, 2.4, 0])  # the vdna library's rule shrinks a positive minimum
        assert (widened.half_width > 0).all()
        assert widened.id != scaled.id

    def test_what_is_no_ranges_file_is_refused(self) -> None:
        for text in ("", "[]", "{}", '{"mins_per_neuron": {"a": {"0": 1}}, "maxs_per_neuron": {"a": {}}}'):
            with pytest.raises(ValueError, match="not a ranges file"):
                HistogramAxes.from_json(text)
        with pytest.raises(ValueError, match="finite"):
            HistogramAxes({"a": 1}, np.array([np.inf]), np.array([-np.inf]))
        with pytest.raises(ValueError, match="minimum <= maximum"):
            HistogramAxes({"a": 1}, np.array([1.0]), np.array([0.0]))
