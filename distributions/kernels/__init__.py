"""The inner loops: one function per statistic, the CPU and GPU versions behind one name.

    count_bins(activations, centre, half_width, slots)
    means = position_means(activations)

`cpu` holds compiled loops, `gpu` the same statistics on a device; both give the same counts, bit for bit. `pairs` and
`factors` compare; what compares histograms needs no torch, and `plain` stands in for `factors` where there is none.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING

from distributions.kernels.pairs import cumulative_shares, pairwise_emd, row_emd

if TYPE_CHECKING:
    import torch

__all__ = [
    "count_bins",
    "cumulative_shares",
    "extremes",
    "linear_algebra",
    "pairwise_emd",
    "position_means",
    "row_emd",
]


def count_bins(activations: torch.Tensor, centre: torch.Tensor, half_width: torch.Tensor, slots: torch.Tensor) -> None:
    """Add a batch to per-neuron histograms over `centre ± half_width`.

    In float64, `z = (a - centre) / half_width` falls in bin `trunc((z + 1) * bins / 2)`, the value 1 in
    the last bin: what `torch.histc` does to values clamped to [-1, 1]. Values outside are counted
    beside the bins and NaN apart, so every value adds one to exactly one slot of its neuron.

    `activations` (samples, positions, neurons) floating; `centre`, `half_width` (neurons) float64;
    `slots` (neurons, bins + 3) int32 or int64, contiguous, updated in place: below, the bins, above, NaN. That no
    slot overflows is the caller's care.
    """
    _home(activations).count_bins(activations, centre, half_width, slots)


def position_means(activations: torch.Tensor) -> torch.Tensor:
    """Mean over positions of each image, summed in float64: `(samples, positions, neurons)` to `(samples, neurons)`.

    Summation runs in one fixed order per image and neuron, so the value does not depend on the batch.
    """
    return _home(activations).position_means(activations)  # type: ignore[no-any-return]


def extremes(activations: torch.Tensor, low: torch.Tensor, high: torch.Tensor, nonfinite: torch.Tensor) -> None:
    """Lower `low` and raise `high` (float32, per neuron, in place) to cover the finite values of a batch.

    Values that are NaN or infinite are counted per neuron in `nonfinite` (int64) and otherwise left out.
    """
    _home(activations).extremes(activations, low, high, nonfinite)


def linear_algebra() -> ModuleType:
    """Where `covariance_factor`, `root_trace` and `one_thread_each` are: `factors`, or `plain` without torch."""
    has_torch = importlib.util.find_spec("torch") is not None
    return importlib.import_module(f"distributions.kernels.{'factors' if has_torch else 'plain'}")


def _home(activations: torch.Tensor) -> ModuleType:
    # Imported here, since those who only compare need not have torch.
    from distributions.kernels import cpu, gpu

    return cpu if activations.device.type == "cpu" else gpu
