"""The laws that every distribution keeps, as one class subclassed for each kind."""

from __future__ import annotations

import copy

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
)
from tests.helpers.material import LAYERS, activations

RANGES = HistogramAxes(LAYERS, np.linspace(-2, -1, 8), np.linspace(1, 3, 8))


class Laws:
    exact: tuple[str, ...] = ()
    """Arrays that are equal bit for bit however the images are grouped; others within float64 rounding."""

    def empty(self, device: str = "cpu") -> Distribution:
        raise NotImplementedError

    def filled(self, *seeds: int) -> Distribution:
        distribution = self.empty()
        for seed in seeds:
            for layer, batch in activations(seed).items():
                distribution.update(layer, batch)
        return distribution

    def assert_equal(self, a: Distribution, b: Distribution, bits: bool = False) -> None:
        left, right = a.state(), b.state()
        assert left.keys() == right.keys() == a.dims.keys()
        for name in left:
            if bits or name in self.exact:
                np.testing.assert_array_equal(left[name], right[name], err_msg=name)
            else:
                np.testing.assert_allclose(left[name], right[name], rtol=1e-12, atol=1e-12, err_msg=name)

    def test_state_differs_between_data(self) -> None:
        """The laws below would hold for a distribution that ignored its data."""
        a, b, empty = self.filled(1).state(), self.filled(2).state(), self.empty().state()
        assert any((a[name] != b[name]).any() for name in a)
        assert any((a[name] != empty[name]).any() for name in a)

    def test_empty_is_the_identity_on_both_sides(self) -> None:
        filled, left, right = self.filled(1, 2), self.empty(), self.filled(1, 2)
        left.merge(filled)
        right.merge(self.empty())
        self.assert_equal(left, filled, bits=True)
        self.assert_equal(right, filled, bits=True)

    def test_many_merged_into_empty_leave_the_first_untouched(self) -> None:
        first, total = self.filled(1), self.empty()
        before = copy.deepcopy(first.state())
        for part in (first, self.filled(2), self.filled(3)):
            total.merge(part)
        for name, array in first.state().items():
            np.testing.assert_array_equal(array, before[name])
        self.assert_equal(total, self.filled(1, 2, 3))

    @pytest.mark.parametrize("size", [1, 2, 4, 6])
    def test_any_split_of_the_batches_is_the_same(self, size: int) -> None:
        split = self.empty()
        for layer, batch in activations(1).items():
            for part in batch.split(size):
                split.update(layer, part)
        self.assert_equal(split, self.filled(1))

    def test_strides_do_not_matter(self) -> None:
        """A CNN's activations come as a transposed view, a slice of tokens as a strided one."""
        for view in (
            lambda a: a.transpose(1, 2).contiguous().transpose(1, 2),
            lambda a: torch.stack([a, a + 1], dim=2)[:, :, 0],
            lambda a: a.flip(0).flip(0),
        ):
            distribution = self.empty()
            for layer, batch in activations(1).items():
                distribution.update(layer, view(batch))
            self.assert_equal(distribution, self.filled(1))

    def test_commutative(self) -> None:
        ab, ba = self.filled(1), self.filled(2)
        ab.merge(self.filled(2))
        ba.merge(self.filled(1))
        self.assert_equal(ab, ba)

    def test_associative(self) -> None:
        left, right, tail = self.filled(1), self.filled(1), self.filled(2)
        left.merge(self.filled(2))
        left.merge(self.filled(3))
        tail.merge(self.filled(3))
        right.merge(tail)
        self.assert_equal(left, right)

    def test_argument_is_untouched_and_not_aliased(self) -> None:
        a, b = self.filled(1), self.filled(2)
        before = copy.deepcopy(b.state())
        a.merge(b)
        for layer, batch in activations(3).items():
            a.update(layer, batch)
        for name, array in b.state().items():
            np.testing.assert_array_equal(array, before[name])

    def test_state_is_a_copy(self) -> None:
        a = self.filled(1)
        before = a.state()
        for array in a.state().values():
            array[...] = 0
        for name, array in a.state().items():
            np.testing.assert_array_equal(array, before[name])

    def test_round_trip(self) -> None:
        restored = self.empty()
        state = self.filled(1, 2).state()
        restored.load(state)
        self.assert_equal(restored, self.filled(1, 2), bits=True)
        for array in state.values():
            array[...] = 0
        self.assert_equal(restored, self.filled(1, 2), bits=True)

    def test_wrong_state_is_refused(self) -> None:
        state = self.filled(1).state()
        name = next(iter(state))
        with pytest.raises(IncompatibleError, match=name):
            self.empty().load({**state, name: state[name][:-1]})
        with pytest.raises(IncompatibleError, match=name):
            self.empty().load({k: v for k, v in state.items() if k != name})

    def test_other_layers_are_refused(self) -> None:
        other = type(self).of({"first": 5, "other": 3})
        with pytest.raises(IncompatibleError, match="layers"):
            self.empty().merge(other)

    def test_wrong_batches_are_refused(self) -> None:
        with pytest.raises(ValueError, match="unknown layer 'third'; layers: first, second"):
            self.empty().update("third", torch.zeros(1, 1, 3))
        with pytest.raises(ValueError, match=r"expects \(samples, positions, 5\)"):
            self.empty().update("first", torch.zeros(1, 1, 4))

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda_equals_cpu(self) -> None:
        device = self.empty("cuda")
        for layer, batch in activations(1).items():
            device.update(layer, batch.cuda())
        self.assert_equal(device, self.filled(1))
        merged = self.empty()
        merged.merge(device)
        self.assert_equal(merged, self.filled(1))

    @classmethod
    def of(cls, layers: dict[str, int]) -> Distribution:
        raise NotImplementedError


class TestHistogram(Laws):
    exact = ("histogram", "histogram_below", "histogram_above", "histogram_nan")

    def empty(self, device: str = "cpu") -> Histogram:
        return Histogram(LAYERS, 20, RANGES, device)

    @classmethod
    def of(cls, layers: dict[str, int]) -> Histogram:
        return Histogram(layers, 20, HistogramAxes(layers, RANGES.minimum, RANGES.maximum))

    def test_other_bins_and_ranges_are_refused(self) -> None:
        with pytest.raises(IncompatibleError):
            self.empty().merge(Histogram(LAYERS, 21, RANGES))
        with pytest.raises(IncompatibleError):
            self.empty().merge(Histogram(LAYERS, 20, HistogramAxes(LAYERS, RANGES.minimum - 1, RANGES.maximum)))

    def test_what_32_bits_cannot_hold_is_taken_into_64(self, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = self.filled(1, 2, 3)
        images, positions, _ = activations(1)["first"].shape
        monkeypatch.setattr("distributions.histogram.MOST_RECENT", 2 * images * positions)
        settled = self.filled(1, 2, 3)
        assert int(settled.slots.sum()) > 0
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
    def of(cls, layers: dict[str, int]) -> Gaussian:
        return Gaussian(layers)

    def test_mean_and_variance_are_numpys(self) -> None:
        images = np.concatenate([b.double().mean(1).numpy() for s in (1, 2) for b in [activations(s)["first"]]])
        mean, variance = self.filled(1, 2).compute()
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
    def of(cls, layers: dict[str, int]) -> LayerGaussian:
        return LayerGaussian(layers)

    def test_mean_and_covariance_are_numpys(self) -> None:
        images = np.concatenate([activations(s)["first"].double().mean(1).numpy() for s in (1, 2)])
        mean, covariance = self.filled(1, 2).compute("first")
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
    def of(cls, layers: dict[str, int]) -> ActivationRanges:
        return ActivationRanges(layers)

    def test_values_that_are_not_finite_are_counted_and_left_out(self) -> None:
        ranges = self.empty()
        ranges.update("second", torch.tensor([[[1.0, torch.nan, torch.inf], [2.0, 3.0, -torch.inf]]]))
        state = {name: array[5:] for name, array in ranges.state().items()}
        assert state["min"].tolist() == [1.0, 3.0, np.inf]
        assert state["max"].tolist() == [2.0, 3.0, -np.inf]
        assert state["range_nonfinite"].tolist() == [0, 1, 2]
