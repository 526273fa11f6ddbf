"""Each kernel against a slow NumPy twin: on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distributions.kernels import count_bins, extremes, position_means

GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
DEVICES = pytest.mark.parametrize("device", ["cpu", GPU])
SHAPES = pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (2, 5, 1), (4, 49, 33), (8, 197, 64)])
LAYOUTS = {
    "tokens": lambda a: a,
    "channels first": lambda a: a.transpose(1, 2).contiguous().transpose(1, 2),
    "cut": lambda a: torch.cat([a, a], 2)[:, :, : a.shape[2]],
    "every other": lambda a: a.repeat_interleave(2, 1)[:, ::2],
    "bf16": lambda a: a.bfloat16(),
    "fp16": lambda a: a.half(),
    "fp64": lambda a: a.double(),
}
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def batch(shape: tuple[int, int, int], layout: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator) * 2
    flat = values.view(-1)
    for place, value in zip(range(0, len(flat), 7), (torch.nan, torch.inf, -torch.inf, 0.0, 60000.0), strict=False):
        flat[place] = value
    return LAYOUTS[layout](values)


@DEVICES
@SHAPES
@LAYOUT
@pytest.mark.parametrize("bins", [1, 10, 1000])
def test_count_bins(device: str, shape: tuple[int, int, int], layout: str, bins: int) -> None:
    neurons, draw = shape[2], np.random.default_rng(0)
    centre, half = draw.normal(size=neurons), draw.uniform(0.5, 3, neurons)
    half[0] = 1e-8  # a neuron that never varied when it was calibrated
    activations = batch(shape, layout)
    slots = torch.zeros((neurons, bins + 3), dtype=torch.int64, device=device)
    axes = [torch.from_numpy(a).to(device) for a in (centre, half)]
    for _ in range(2):
        count_bins(activations.to(device), *axes, slots)  # type: ignore[call-arg]
    np.testing.assert_array_equal(slots.cpu(), 2 * counted(activations, centre, half, bins))


@DEVICES
def test_a_range_has_no_negative_zero(device: str) -> None:
    """Of -0.0 and 0.0 either could be the smaller, and the order of the images would show."""
    low, high = torch.full((2,), torch.inf, device=device), torch.full((2,), -torch.inf, device=device)
    nonfinite = torch.zeros(2, dtype=torch.int64, device=device)
    extremes(torch.tensor([[[-0.0, torch.nan]]], device=device), low, high, nonfinite)
    extremes(torch.tensor([[[-0.0, -0.0]]], device=device), low, high, nonfinite)
    assert not torch.signbit(torch.cat([low, high])).any()


@pytest.mark.parametrize("layout", ["tokens", "channels first", "cut"])
@pytest.mark.parametrize("shape", [(5, 1100, 40), (5, 1100, 15), (1, 5500, 17), (7, 1, 11000)])
def test_threads_count_the_same(shape: tuple[int, int, int], layout: str) -> None:
    """Enough values for several threads, that share the neurons or, where these are few, the images."""
    activations, neurons = batch(shape, layout), shape[2]
    centre, half = np.zeros(neurons), np.full(neurons, 3.0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        slots = torch.zeros((neurons, 23), dtype=torch.int64)
        count_bins(activations, torch.from_numpy(centre), torch.from_numpy(half), slots)
        means = position_means(activations)
        low, high, nonfinite = torch.full((neurons,), 9.0), torch.full((neurons,), -9.0), slots.new_zeros(neurons)
        extremes(activations, low, high, nonfinite)
        torch.set_num_threads(1)
        alone = position_means(activations)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(slots, counted(activations, centre, half, 20))
    np.testing.assert_array_equal(means, alone)
    assert_extremes(activations, low, high, nonfinite, 9.0, -9.0)


def counted(activations: torch.Tensor, centre: np.ndarray, half: np.ndarray, bins: int) -> np.ndarray:
    """The slow twin."""
    slots = np.zeros((len(centre), bins + 3), np.int64)
    for neuron in range(len(centre)):
        z = (activations[:, :, neuron].double().numpy().ravel() - centre[neuron]) / half[neuron]
        inside = z[(z >= -1) & (z <= 1)]
        places = np.minimum(((inside + 1) * bins / 2).astype(np.int64), bins - 1)
        slots[neuron] = (z < -1).sum(), *np.bincount(places, minlength=bins), (z > 1).sum(), np.isnan(z).sum()
    return slots


@DEVICES
@SHAPES
@LAYOUT
def test_position_means(device: str, shape: tuple[int, int, int], layout: str) -> None:
    activations = batch(shape, layout)
    means = position_means(activations.to(device))
    assert means.dtype == torch.float64
    with np.errstate(invalid="ignore"):
        expected = activations.double().numpy().mean(1)
    np.testing.assert_allclose(means.cpu(), expected, rtol=1e-13, atol=1e-13)


def test_position_means_do_not_depend_on_the_batch() -> None:
    for layout in ("tokens", "channels first"):
        activations = batch((8, 197, 64), layout)
        singly = torch.cat([position_means(image[None]) for image in activations])
        assert torch.equal(position_means(activations).nan_to_num(), singly.nan_to_num())


@DEVICES
@SHAPES
@LAYOUT
def test_extremes(device: str, shape: tuple[int, int, int], layout: str) -> None:
    activations, neurons = batch(shape, layout), shape[2]
    low, high = torch.full((neurons,), 0.25, device=device), torch.full((neurons,), 0.25, device=device)
    nonfinite = torch.zeros(neurons, dtype=torch.int64, device=device)
    extremes(activations.to(device), low, high, nonfinite)
    assert_extremes(activations, low, high, nonfinite, 0.25, 0.25)


def assert_extremes(
    activations: torch.Tensor, low: torch.Tensor, high: torch.Tensor, nonfinite: torch.Tensor, most: float, least: float
) -> None:
    values = activations.float().numpy().reshape(-1, len(low))
    finite = np.isfinite(values)
    np.testing.assert_array_equal(low.cpu(), np.where(finite, values, np.inf).min(0).clip(max=most))
    np.testing.assert_array_equal(high.cpu(), np.where(finite, values, -np.inf).max(0).clip(min=least))
    np.testing.assert_array_equal(nonfinite.cpu(), (~finite).sum(0))
