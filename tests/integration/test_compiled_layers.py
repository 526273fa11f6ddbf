"""Compiled layers, for which torch starts a compiler.

Needs neither Ray nor Hydra, so that it runs on a bare GPU machine:
`python -m pytest --noconftest tests/integration/test_compiled_layers.py`.
"""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.unit.extractors.test_network import DEVICES, activations, random


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.filterwarnings("default")
@DEVICES
def test_compiled_layers_fire_as_before(device: str) -> None:
    """Of layers inside one another only the innermost is compiled; batches of any size follow."""
    layers = ["blocks.0", "blocks.1.mlp", "blocks.1"]
    plain, compiled = (random("test_vit", device, layers=layers, compile=choice) for choice in (False, True))
    named = dict(compiled.model.named_modules())
    assert [name for name in layers if "forward" in vars(named[name])] == ["blocks.0", "blocks.1.mlp"]
    for images in (torch.randn(3, 3, 160, 160), torch.randn(5, 3, 160, 160)):
        (names, expected), (others, seen) = (activations(extractor, images) for extractor in (plain, compiled))
        assert names == others == layers
        torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
