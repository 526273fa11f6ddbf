"""The arithmetic that a network runs in, by the name of its precision.

with arithmetic("bf16", torch.device("cuda")):
    model(images)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """The arithmetic of matrix products and convolutions inside: of half precision by torch's autocast, which keeps
    norms, softmax and sums in fp32; in float32 with TF32 when asked for, and never otherwise."""
    on_gpu = device.type == "cuda"  # the settings are the process's: a processor's threads need none of them
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn) if on_gpu else ()
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision == "tf32"
        with torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF):
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
