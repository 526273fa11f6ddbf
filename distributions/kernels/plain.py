"""`factors` without torch: for whoever only reads and compares. Equal within float64 rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def one_thread_each(work: Callable[..., T], *arguments: Iterable[object]) -> list[T]:
    """`list(map(work, *arguments))`: NumPy's linear algebra has threads of its own."""
    return list(map(work, *arguments))


def covariance_factor(covariance: np.ndarray, device: str = "cpu") -> np.ndarray:
    """F (neurons, rank) with F Fᵀ = `covariance` (neurons, neurons) float64, by its eigenvectors, each scaled by the
    root of its eigenvalue; those that are rounding are left out. Raises `ValueError` if it is not finite."""
    if not np.isfinite(covariance).all():
        raise ValueError("a covariance has values that are not finite")
    # Scaled to unit variances, so that rounding is judged against each neuron's own.
    scale = np.sqrt(np.diagonal(covariance).clip(min=0))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    values, vectors = np.linalg.eigh(covariance * inverse[:, None] * inverse)
    kept = values > len(values) * np.finfo(np.float64).eps * values.max(initial=0.0)
    factor: np.ndarray = scale[:, None] * vectors[:, kept] * np.sqrt(values[kept])
    return factor


def root_trace(a: np.ndarray, b: np.ndarray) -> float:
    """tr (S1 S2)^½ from the factors `a` and `b` (neurons, rank): the sum of the singular values of aᵀ b."""
    return float(np.linalg.svd(a.T @ b, compute_uv=False).sum()) if a.size and b.size else 0.0
