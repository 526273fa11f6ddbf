"""The same statistics on a GPU, without waiting for it. The contracts are those of `distributions.kernels`.

Nothing here copies, synchronises, or depends on the values: work is only put in the current stream.
"""

from __future__ import annotations

from typing import Any

import torch

TILE = 512
"""Values a program holds at once: four for each of its threads."""
WIDTH, DEPTH = 128, 256
"""Neurons, or positions, of a tile that are neighbours in memory."""
STEPS = 32
"""Tiles a program walks before it adds what it has summed up to the statistics."""
AHEAD = 16
"""Loads under way of each sum over positions."""


def count_bins(activations: torch.Tensor, centre: torch.Tensor, half_width: torch.Tensor, slots: torch.Tensor) -> None:
    shape, grid, tile = _tiled(activations)
    bins = slots.shape[1] - 3
    _launch("count_bins", grid, activations, centre, half_width, slots, *shape, BINS=bins, **tile)


def position_means(activations: torch.Tensor) -> torch.Tensor:
    samples, positions, neurons = activations.shape
    means = torch.empty((samples, neurons), dtype=torch.float64, device=activations.device)
    width = min(_power_of_two(neurons), 256)
    tile = {"AHEAD": AHEAD, "NEURONS": width, "num_warps": max(width // 64, 1)}
    grid = (samples, -(-neurons // width))
    _launch("position_means", grid, activations, means, positions, neurons, *activations.stride(), **tile)
    return means


def extremes(activations: torch.Tensor, low: torch.Tensor, high: torch.Tensor, nonfinite: torch.Tensor) -> None:
    shape, grid, tile = _tiled(activations)
    _launch("extremes", grid, activations, low, high, nonfinite, *shape, **tile)


def _tiled(activations: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, int], dict[str, int]]:
    """Rows, neurons and strides; the grid of programs; and the size of their tiles, long in the direction in which
    values are neighbours in memory."""
    samples, rows, neurons = activations.shape
    sample_stride, row_stride, neuron_stride = activations.stride()
    if rows == 1:
        samples, rows, row_stride = 1, samples, sample_stride
    elif sample_stride == rows * row_stride:
        samples, rows = 1, samples * rows
    if neuron_stride <= row_stride:
        wide = min(_power_of_two(neurons), WIDTH)
        deep = TILE // wide
    else:
        deep = min(_power_of_two(rows), DEPTH)
        wide = TILE // deep
    chunk = deep * STEPS
    grid = (samples * -(-rows // chunk), -(-neurons // wide))
    tile = {"CHUNK": chunk, "ROWS": deep, "NEURONS": wide, "num_warps": 4}
    return (rows, neurons, sample_stride, row_stride, neuron_stride), grid, tile


def _power_of_two(size: int) -> int:
    """The least that is not smaller."""
    return 1 << (size - 1).bit_length()


def _launch(program: str, grid: tuple[int, int], activations: torch.Tensor, *arguments: Any, **tile: int) -> None:
    try:
        from distributions.kernels import programs
    except ImportError as error:
        raise RuntimeError(
            f"statistics on a GPU need Triton ({error}): it comes with torch's CUDA build, or pip install triton"
        ) from error
    with torch.cuda.device_of(activations):  # type: ignore[no-untyped-call]
        getattr(programs, program)[grid](activations, *arguments, **tile, enable_fp_fusion=False)
