"""The laws that every distribution keeps, as one class subclassed for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
import pytest
import torch

from distributions import (
    ActivationRanges,
    Distribution,
    Gaussian,
    Histogram,
    HistogramAxes,
    IncompatibleError,
    LayerGaussian,
    testing,
)
from distributions.base import Batch, State
from distributions.testing import LAWS, Case, check_laws, random_batches
from tests.helpers.material import LAYERS, activations

RANGES = HistogramAxes(LAYERS, np.linspace(-2, -1, 8), np.linspace(1, 3, 8))


BATCHES = [activations(seed) for seed in (1, 2, 3)]


class Laws:
    exact: tuple[str, ...] = ()
    """Arrays that are equal bit for bit however the images are grouped; others within float64 rounding."""

    @property
    def case(self) -> Case:
        return Case(type(self).of, BATCHES, self.exact)

    def empty(self, device: str = "cpu") -> Distribution:
        raise NotImplementedError

    def filled(self, *seeds: int) -> Distribution:
        return self.case.filled(*(seed - 1 for seed in seeds))

    def assert_equal(self, a: Distribution, b: Distribution, bits: bool = False) -> None:
        self.case.assert_equal(a, b, bits)

    def test_state_differs_between_data(self) -> None:
        testing.state_depends_on_the_data(self.case)

    def test_empty_is_the_identity_on_both_sides(self) -> None:
        testing.empty_is_neutral(self.case)

    def test_many_merged_into_empty_leave_the_first_untouched(self) -> None:
        testing.merging_many_leaves_the_first_unchanged(self.case)

    @pytest.mark.parametrize("size", [1, 2, 4, 6])
    def test_any_split_of_the_batches_is_the_same(self, size: int) -> None:
        testing.splits_agree(self.case, [size])

    def test_strides_do_not_matter(self) -> None:
        testing.strides_do_not_matter(self.case)

    def test_commutative(self) -> None:
        testing.merging_is_commutative(self.case)

    def test_associative(self) -> None:
        testing.merging_is_associative(self.case)

    def test_argument_is_untouched_and_not_aliased(self) -> None:
        testing.merging_neither_changes_nor_aliases_its_argument(self.case)

    def test_state_is_a_copy(self) -> None:
        testing.state_is_a_copy(self.case)

    def test_round_trip(self) -> None:
        testing.state_can_be_loaded(self.case)

    def test_wrong_state_is_refused(self) -> None:
        testing.wrong_states_are_refused(self.case)

    def test_other_layers_are_refused(self) -> None:
        testing.other_layers_are_refused(self.case)

    def test_wrong_batches_are_refused(self) -> None:
        testing.wrong_batches_are_refused(self.case)
        with pytest.raises(ValueError, match="unknown layer 'third'; layers: first, second"):
            self.empty().update("third", torch.zeros(1, 1, 3))
        with pytest.raises(ValueError, match=r"expects \(samples, positions, 5\)"):
            self.empty().update("first", torch.zeros(1, 1, 4))

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda_equals_cpu(self) -> None:
        testing.devices_agree(self.case, self.empty("cuda"), "cuda")

    @classmethod
    def of(cls, layers: Mapping[str, int]) -> Distribution:
        raise NotImplementedError


class TestHistogram(Laws):
    exact = ("histogram", "histogram_below", "histogram_above", "histogram_nan")

    def empty(self, device: str = "cpu") -> Histogram:
        return Histogram(LAYERS, 20, RANGES, device)

    @classmethod
    def of(cls, layers: Mapping[str, int]) -> Histogram:
        return Histogram(layers, 20, HistogramAxes(layers, RANGES.minimum, RANGES.maximum))

    def test_other_bins_and_ranges_are_refused(self) -> None:
        with pytest.raises(IncompatibleError):
            self.empty().merge(Histogram(LAYERS, 21, RANGES))
        with pytest.raises(IncompatibleError):
            self.empty().merge(Histogram(LAYERS, 20, HistogramAxes(LAYERS, RANGES.minimum - 1, RANGES.maximum)))

    def test_what_32_bits_cannot_hold_is_taken_into_64(self, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = self.filled(1, 2, 3)
        images, positions, _ = activations(1)["first"].shape
        monkeypatch.setattr("distributions.histogram.MAX_RECENT_COUNT", 2 * images * positions)
        settled = self.filled(1, 2, 3)
        assert int(settled.slots.sum()) > 0  # type: ignore[attr-defined]
        self.assert_equal(settled, expected, bits=True)
        total = self.filled(2)
        total.merge(settled)
        self.assert_equal(total, self.filled(1, 2, 3, 2), bits=True)

    def test_every_value_is_accounted_for(self) -> None:
        values = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0, 0.5])
        histogram = self.empty()
        histogram.update("second", values.view(1, -1, 1).expand(1, 7, 3))
        state = {name: array[histogram.slices["second"]] for name, array in histogram.state().items()}
        assert (state["histogram"].sum(1) + state["histogram_nan"] == 7).all()
        assert (state["histogram_nan"] == 1).all()
        assert (state["histogram_below"] == 2).all()
        assert (state["histogram_above"] == 2).all()
        assert (state["histogram"][:, 0] == 2).all()
        assert (state["histogram"][:, -1] == 2).all()


class TestGaussian(Laws):
    exact = ("count",)

    def empty(self, device: str = "cpu") -> Gaussian:
        return Gaussian(LAYERS, device)

    @classmethod
    def of(cls, layers: Mapping[str, int]) -> Gaussian:
        return Gaussian(layers)

    def test_mean_and_variance_are_numpys(self) -> None:
        images = np.concatenate([b.double().mean(1).numpy() for s in (1, 2) for b in [activations(s)["first"]]])
        mean, variance = self.filled(1, 2).compute()  # type: ignore[attr-defined]
        np.testing.assert_allclose(mean[:5], images.mean(0), rtol=1e-12)
        np.testing.assert_allclose(variance[:5], images.var(0, ddof=1), rtol=1e-12)

    def test_far_from_zero_nothing_cancels(self) -> None:
        """A sum of squares would lose every digit of the variance here."""
        gaussian = self.empty()
        for value in range(100):
            gaussian.update("second", torch.full((1, 1, 3), 1e8 + value, dtype=torch.float64))
        np.testing.assert_allclose(gaussian.compute()[1][5:], np.arange(100).var(ddof=1), rtol=1e-9)

    def test_one_image_has_variance_zero(self) -> None:
        gaussian = self.empty()
        gaussian.update("second", torch.ones(1, 2, 3))
        assert (gaussian.compute()[1] == 0).all()

    def test_an_image_that_is_not_finite_is_left_out_of_that_neuron_alone(self) -> None:
        batch = activations(1)["first"]
        broken = batch.clone()
        broken[0, 0, 2] = torch.nan
        gaussian, clean = self.empty(), self.empty()
        gaussian.update("first", broken)
        clean.update("first", batch[1:])
        assert gaussian.count[:5].tolist() == [6, 6, 5, 6, 6]
        np.testing.assert_allclose(gaussian.mean[2], clean.mean[2], rtol=1e-12)


class TestLayerGaussian(Laws):
    exact = ("layer_count",)

    def empty(self, device: str = "cpu") -> LayerGaussian:
        return LayerGaussian(LAYERS, device)

    @classmethod
    def of(cls, layers: Mapping[str, int]) -> LayerGaussian:
        return LayerGaussian(layers)

    def test_mean_and_covariance_are_numpys(self) -> None:
        images = np.concatenate([activations(s)["first"].double().mean(1).numpy() for s in (1, 2)])
        mean, covariance = self.filled(1, 2).compute("first")  # type: ignore[attr-defined]
        np.testing.assert_allclose(mean, images.mean(0), rtol=1e-12)
        np.testing.assert_allclose(covariance, np.cov(images.T), rtol=1e-11, atol=1e-14)

    def test_an_image_that_is_not_finite_is_left_out_of_that_layer(self) -> None:
        batch = activations(1)["first"]
        broken = batch.clone()
        broken[0, 0, 2] = torch.inf
        gaussian, clean = self.empty(), self.empty()
        gaussian.update("first", broken)
        clean.update("first", batch[1:])
        assert gaussian.count == {"first": 5, "second": 0}
        np.testing.assert_array_equal(gaussian.compute("first")[1], clean.compute("first")[1])


class TestActivationRanges(Laws):
    exact = ("min", "max", "range_nonfinite")

    def empty(self, device: str = "cpu") -> ActivationRanges:
        return ActivationRanges(LAYERS, device)

    @classmethod
    def of(cls, layers: Mapping[str, int]) -> ActivationRanges:
        return ActivationRanges(layers)

    def test_values_that_are_not_finite_are_counted_and_left_out(self) -> None:
        ranges = self.empty()
        ranges.update("second", torch.tensor([[[1.0, torch.nan, torch.inf], [2.0, 3.0, -torch.inf]]]))
        state = {name: array[5:] for name, array in ranges.state().items()}
        assert state["min"].tolist() == [1.0, 3.0, np.inf]
        assert state["max"].tolist() == [2.0, 3.0, -np.inf]
        assert state["range_nonfinite"].tolist() == [0, 1, 2]


class Broken(Gaussian):
    """A Gaussian with one mistake, which the laws find."""

    def __init__(self, layers: Mapping[str, int], mistake: str) -> None:
        super().__init__(layers)
        self.mistake = mistake

    def fold(self, layer: str, batch: Batch) -> None:
        if self.mistake == "ignores its data":
            return
        if self.mistake == "counts batches":
            batch = Batch(batch.activations[:1])
        if self.mistake == "takes any view for contiguous":
            samples, positions, neurons = batch.activations.shape
            strides = (positions * neurons, neurons, 1)
            batch = Batch(batch.activations.as_strided((samples, positions, neurons), strides))
        super().fold(layer, batch)

    def merge(self, other: Self) -> None:
        if self.mistake == "takes any layers":
            self._fold(slice(None), other.count, other.mean, other.m2)
            return
        if self.mistake == "keeps the other's arrays" and not self.count.any():
            self.check_mergeable(other)
            self.count, self.mean, self.m2 = other.count, other.mean, other.m2
            return
        super().merge(other)
        if self.mistake == "merges in one order alone":
            self.mean += 0.5 * (other.mean - self.mean)
        if self.mistake == "empties the other":
            other.count.zero_()

    def state(self) -> State:
        if self.mistake == "gives its arrays away":
            return {"count": self.count.numpy().view(np.uint64), "mean": self.mean.numpy(), "m2": self.m2.numpy()}
        return super().state()

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        if self.mistake == "loads anything":
            size = len(state.get("mean", ()))
            self.count[:size] = torch.from_numpy(state["count"].astype(np.int64))[:size] if "count" in state else 0
            return
        super().load(state)

    def check_batch(self, layer: str, activations: torch.Tensor) -> None:
        if self.mistake != "takes any batch":
            super().check_batch(layer, activations)


def broken(mistake: str) -> Case:
    return Case(lambda layers: Broken(layers, mistake), random_batches(LAYERS), ("count",))


def test_the_laws_hold_for_a_distribution_without_a_mistake() -> None:
    check_laws(broken(""))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        ("ignores its data", testing.state_depends_on_the_data),
        ("counts batches", testing.splits_agree),
        ("takes any view for contiguous", testing.strides_do_not_matter),
        ("takes any layers", testing.other_layers_are_refused),
        ("keeps the other's arrays", testing.merging_many_leaves_the_first_unchanged),
        ("merges in one order alone", testing.merging_is_commutative),
        ("merges in one order alone", testing.merging_is_associative),
        ("merges in one order alone", testing.empty_is_neutral),
        ("empties the other", testing.merging_neither_changes_nor_aliases_its_argument),
        ("gives its arrays away", testing.state_is_a_copy),
        ("loads anything", testing.state_can_be_loaded),
        ("loads anything", testing.wrong_states_are_refused),
        ("takes any batch", testing.wrong_batches_are_refused),
    ],
)
def test_a_mistake_breaks_its_law(mistake: str, law: Callable[[Case], None]) -> None:
    assert law in LAWS
    with pytest.raises(AssertionError):
        law(broken(mistake))


def test_laws_need_three_batches() -> None:
    with pytest.raises(ValueError, match="three batches, got 2"):
        Case(Gaussian, random_batches(LAYERS, number=2))
