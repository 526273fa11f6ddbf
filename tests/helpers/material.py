"""Small random activations and specs. Needs torch and numpy alone, so that the tests of the mathematics run on a
bare GPU machine:

    cd tests/unit/distributions
    PYTHONPATH=../../.. python -m pytest --noconftest test_laws.py test_kernels.py
"""

from __future__ import annotations

import torch

from distributions import HistogramAxes, Spec

FACTS = {"fingerprint": "f", "url": "u", "description": "", "licence": "", "extractor_licence": "", "provenance": {}}


LAYERS = {"first": 5, "second": 3}
ALL = ("histogram-20", "gaussian", "layer-gaussian", "activation-ranges")


def spec(ranges: HistogramAxes | None, distributions: tuple[str, ...] = ALL, weights: str = "w") -> Spec:
    return Spec("net", "arch", weights, "clean.2-8-none-mean0.5-std0.5", "fp32", LAYERS, distributions, ranges)


def activations(seed: int, samples: int = 6, positions: int = 4, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(samples, positions, n, generator=generator) * scale for k, n in LAYERS.items()}
