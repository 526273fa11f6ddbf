"""The same statistics on a GPU, without waiting for it. The contracts are those of `distributions.kernels`."""

from __future__ import annotations

import torch


def count_bins(activations: torch.Tensor, centre: torch.Tensor, half_width: torch.Tensor, slots: torch.Tensor) -> None:
    neurons, width = slots.shape
    bins = width - 3
    z = (activations.double() - centre) / half_width
    place = ((z.nan_to_num(0.0).clamp(-1, 1) + 1) * (bins * 0.5)).long().clamp_(max=bins - 1) + 1
    place = place.masked_fill_(z < -1, 0).masked_fill_(z > 1, bins + 1).masked_fill_(z.isnan(), bins + 2)
    place += torch.arange(neurons, device=z.device) * width
    slots.view(-1).scatter_add_(0, place.flatten(), torch.ones_like(place).flatten())


def position_means(activations: torch.Tensor) -> torch.Tensor:
    return activations.mean(dim=1, dtype=torch.float64)


def extremes(activations: torch.Tensor, low: torch.Tensor, high: torch.Tensor, nonfinite: torch.Tensor) -> None:
    finite = activations.isfinite()
    nonfinite += (~finite).sum((0, 1))
    torch.maximum(high, activations.masked_fill(~finite, -torch.inf).amax((0, 1)).float(), out=high)
    torch.minimum(low, activations.masked_fill(~finite, torch.inf).amin((0, 1)).float(), out=low)
