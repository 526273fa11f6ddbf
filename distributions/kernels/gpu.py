"""The same statistics on a GPU, without waiting for it. The contracts are those of `distributions.kernels`."""

from __future__ import annotations

import torch


def count_bins(
    activations: torch.Tensor,
    centre: torch.Tensor,
    half_width: torch.Tensor,
    counts: torch.Tensor,
    below: torch.Tensor,
    above: torch.Tensor,
    nan: torch.Tensor,
) -> None:
    neurons, bins = counts.shape
    z = (activations.double() - centre) / half_width
    missing = z.isnan()
    nan += missing.sum((0, 1))
    below += (z < -1).sum((0, 1))
    above += (z > 1).sum((0, 1))
    position = ((z.nan_to_num(0.0).clamp(-1, 1) + 1) * (bins * 0.5)).long().clamp_(max=bins - 1)
    position += torch.arange(neurons, device=z.device) * bins
    # NaN goes to one bin past the end, cut off again, so that no data-dependent shape forces a device sync.
    position = torch.where(missing, neurons * bins, position)
    flat = torch.zeros(neurons * bins + 1, dtype=torch.int64, device=z.device)
    flat.scatter_add_(0, position.flatten(), torch.ones_like(position).flatten())
    counts += flat[:-1].view(neurons, bins)


def position_means(activations: torch.Tensor) -> torch.Tensor:
    return activations.mean(dim=1, dtype=torch.float64)


def extremes(activations: torch.Tensor, low: torch.Tensor, high: torch.Tensor, nonfinite: torch.Tensor) -> None:
    finite = activations.isfinite()
    nonfinite += (~finite).sum((0, 1))
    torch.maximum(high, activations.masked_fill(~finite, -torch.inf).amax((0, 1)).float(), out=high)
    torch.minimum(low, activations.masked_fill(~finite, torch.inf).amin((0, 1)).float(), out=low)
