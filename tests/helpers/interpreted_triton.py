"""The Triton programs in Triton's interpreter, bit for bit against the processor's kernels.

    TRITON_INTERPRET=1 python -m pytest --noconftest tests/helpers/interpreted_triton.py

Pytest does not find this file by itself: the interpreter has to be asked for before Triton is first imported.
`tests/unit/distributions/test_triton.py` runs it in a process of its own.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distributions.kernels import cpu, gpu

LAYOUTS = {
    "tokens": lambda a: a,
    "channels first": lambda a: a.transpose(1, 2).contiguous().transpose(1, 2),
    "images last": lambda a: a.transpose(0, 1).contiguous().transpose(0, 1),
    "cut": lambda a: torch.cat([a, a], 2)[:, :, 1 : a.shape[2] + 1],
    "every other": lambda a: a.repeat_interleave(2, 1)[:, ::2],
    "one for all": lambda a: a[:1].expand_as(a),
    "bf16": lambda a: a.bfloat16(),
    "fp16": lambda a: a.half(),
    "fp64": lambda a: a.double(),
    "rectified": lambda a: a.relu(),
}
each = pytest.mark.parametrize(
    ("shape", "layout"),
    [((4, 49, 33), layout) for layout in LAYOUTS]
    + [(shape, "tokens") for shape in [(1, 1, 1), (3, 1, 7), (2, 5, 1), (2, 300, 5), (2, 3, 300), (70, 1, 2)]]
    + [((2, 600, 2), "channels first"), ((3, 1, 140), "channels first"), ((2, 40, 130), "images last")],
)


@pytest.fixture(autouse=True)
def short_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small batches, too, are shared by several programs."""
    monkeypatch.setattr(gpu, "STEPS", 2)


def activations(shape: tuple[int, int, int], layout: str) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2
    flat = values.view(-1)
    for place, value in zip(
        range(0, len(flat), 7), (torch.nan, torch.inf, -torch.inf, 0.0, 60000.0, -0.0), strict=False
    ):
        flat[place] = value
    return LAYOUTS[layout](values)


@each
def test_count_bins(shape: tuple[int, int, int], layout: str) -> None:
    count(shape, layout, 1000)


@pytest.mark.parametrize("bins", [1, 2, 10])
def test_few_bins(bins: int) -> None:
    for layout in ("tokens", "channels first"):
        count((3, 20, 9), layout, bins)


def count(shape: tuple[int, int, int], layout: str, bins: int) -> None:
    neurons, draw = shape[2], np.random.default_rng(0)
    centre, half = torch.from_numpy(draw.normal(size=neurons)), torch.from_numpy(draw.uniform(0.5, 3, neurons))
    half[0] = 1e-8  # a neuron that never varied when it was calibrated
    batch = activations(shape, layout)
    expected = torch.zeros((neurons, bins + 3), dtype=torch.int64)
    layer = torch.zeros((neurons + 2, bins + 3), dtype=torch.int64)
    for _ in range(2):
        gpu.count_bins(batch, centre, half, layer[1:-1])
        cpu.count_bins(batch, centre, half, expected)
    assert torch.equal(layer[1:-1], expected)
    assert int(layer.sum()) == 2 * batch.numel()


def test_bin_edges() -> None:
    """Every edge of a thousand bins, and its neighbours among the numbers of float64."""
    edges = np.linspace(-1.0, 2.0, 1001)
    values = torch.from_numpy(np.concatenate([edges, np.nextafter(edges, -9), np.nextafter(edges, 9)])).view(1, -1, 1)
    slots = [torch.zeros((1, 1003), dtype=torch.int64) for _ in range(2)]
    axis = [torch.full((1,), value, dtype=torch.float64) for value in (0.5, 1.5)]
    for kernel, counted in zip((gpu, cpu), slots, strict=True):
        kernel.count_bins(values, *axis, counted)
    assert torch.equal(*slots)


@each
def test_position_means(shape: tuple[int, int, int], layout: str) -> None:
    batch = activations(shape, layout)
    means = gpu.position_means(batch)
    np.testing.assert_allclose(means, cpu.position_means(batch), rtol=1e-14, atol=1e-14)
    singly = torch.cat([gpu.position_means(image[None]) for image in batch[:9]])
    np.testing.assert_array_equal(means[:9], singly)


@each
def test_extremes(shape: tuple[int, int, int], layout: str) -> None:
    batch, neurons = activations(shape, layout), shape[2]
    seen = []
    for kernel in (gpu, cpu):
        low, high = torch.full((neurons,), torch.inf), torch.full((neurons,), -0.5)
        nonfinite = torch.zeros(neurons, dtype=torch.int64)
        for _ in range(2):
            kernel.extremes(batch, low, high, nonfinite)
        seen.append((low, high, nonfinite))
    for ours, theirs in zip(*seen, strict=True):
        assert torch.equal(ours, theirs)
