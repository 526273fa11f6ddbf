"""Covariances as factors, S = F Fᵀ, and the trace of (S1 S2)^½ from two of them.

    first, second = (covariance_factor(s) for s in (s1, s2))   # (neurons, rank), once per dataset
    root_trace(first, second)                                               # of every pair

tr (S1 S2)^½ is the sum of the singular values of F1ᵀ F2, so a pair costs products of the factors' ranks and not of
the neurons, and nothing imaginary or negative can arise. Every product runs on the thread that asks for it: the same
numbers for any number of threads, and on as many cores as there are pairs under way (`one_thread_each`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")

PANEL = 64
"""Columns of a factor found one by one before what remains is brought up to date in one product."""
STRIPE = 128
"""Rows of a triangular product taken together: wide enough for the processor, narrow enough to leave out the zeros."""


def one_thread_each(work: Callable[..., T], *arguments: Iterable[object]) -> list[T]:
    """`list(map(work, *arguments))` on as many threads as torch has, on each of which torch has one."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "factors", torch.set_num_threads, (1,)) as team:
        try:
            return list(team.map(work, *arguments))
        finally:
            torch.set_num_threads(threads)  # it is what threads that start later begin with


def covariance_factor(covariance: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """F (neurons, rank) with F Fᵀ = `covariance` (neurons, neurons) float64, within its rounding; then on the device.

    Of full rank it is Cholesky's, lower triangular. Else (fewer images than neurons, neurons that never fire) the
    pivoted one, which takes whatever neuron has most left to explain and ends when all that is left is rounding
    (Higham, "Analysis of the Cholesky decomposition of a semi-definite matrix", 1990): rank columns, no more.
    Rounding is judged against each neuron's own variance. A covariance that is not finite raises `ValueError`.
    """
    return _factor(torch.from_numpy(np.ascontiguousarray(covariance))).to(device)


def _factor(covariance: torch.Tensor) -> torch.Tensor:
    variance = covariance.diagonal()
    if not bool(covariance.isfinite().all()):
        raise ValueError("a covariance has values that are not finite")
    least = variance.clamp(min=0) * (len(variance) * torch.finfo(torch.float64).eps)
    lower: torch.Tensor
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not bool(failed) and bool((lower.diagonal().square() > least).all()):
        return lower
    return _pivoted(covariance, least)


def _pivoted(covariance: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    neurons = len(least)
    weight = least.reciprocal().nan_to_num(posinf=0.0)
    rest, factor = covariance.clone(), torch.zeros_like(covariance)
    left = rest.diagonal().clone()
    for start in range(0, neurons, PANEL):
        panel = factor[:, start : start + PANEL]
        for k in range(panel.shape[1]):
            place = int((left * weight).argmax())
            if not left[place] > least[place]:
                return factor[:, : start + k].clone()
            column = torch.addmv(rest[:, place], panel[:, :k], panel[place, :k], alpha=-1)
            panel[:, k] = column / left[place].sqrt()
            left -= panel[:, k].square()
            left[place] = 0  # its neuron is explained in full
        rest.addmm_(panel, panel.T, alpha=-1)
    return factor


def root_trace(a: torch.Tensor, b: torch.Tensor) -> float:
    """tr (S1 S2)^½ from the factors `a` and `b` (neurons, rank), on one device.

    By the eigenvalues of the smaller Gram matrix of aᵀ b; those below zero are rounding and count as zero. Which
    argument is first decides the last bits.
    """
    if a.shape[1] > b.shape[1]:
        a, b = b, a
    shared = _product(a, b)
    gram = shared.new_zeros((len(shared), len(shared)))
    for start in range(0, len(shared), STRIPE):  # the lower half, which is all that is read
        part = slice(start, start + STRIPE)
        torch.mm(shared[part], shared[: start + STRIPE].T, out=gram[part, : start + STRIPE])
    return float(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum())


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """aᵀ b, for two triangular factors at a third of the cost."""
    neurons = len(a)
    if min(a.shape[1], b.shape[1]) < neurons or not (torch.equal(a, a.tril()) and torch.equal(b, b.tril())):
        return a.T @ b  # a pivoted factor is not triangular, not even when it has all columns
    product = a.new_zeros((neurons, neurons))
    for start in range(0, neurons, STRIPE):
        end = min(start + STRIPE, neurons)
        product[:end, :end].addmm_(a[start:end, :end].T, b[start:end, :end])
    return product
