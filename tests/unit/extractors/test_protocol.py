"""Any object with the members of `extractors.Extractor` can be measured, one that needs autograd too."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from distributions import emd
from extractors import ActivationSink, Extractor, FrozenNetwork, Preprocess, build
from pipeline import make_vdna
from pipeline.config.networks import named_extractor
from pipeline.data.plan import network_spec
from pipeline.errors import UserError
from pipeline.extraction.worker import Job, Worker

PICTURES = [np.full((4, 4, 3), value, np.uint8) for value in (0, 51, 255)]


class Pixels:
    """The colours of an input, without a network."""

    name, architecture, licence = "pixels", "pixels", ""
    weights_sha256 = hashlib.sha256(b"").hexdigest()
    precision, published_ranges = "fp32", ""
    provenance: ClassVar[Mapping[str, Any]] = {"colours": "RGB"}
    preprocess = Preprocess(size=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    layers: ClassVar[Mapping[str, int]] = {"colour": 3}
    device = torch.device("cpu")

    def __call__(self, images: torch.Tensor, sink: ActivationSink) -> None:
        sink("colour", images.flatten(2).transpose(1, 2))


class Gradients:
    """How the mean of a network's last layer depends on each pixel: needs autograd, and no hooks."""

    def __init__(self, network: FrozenNetwork) -> None:
        self.network = network
        self.name, self.architecture = f"gradients-{network.name}", f"gradients {network.architecture}"
        self.weights_sha256, self.precision, self.device = network.weights_sha256, network.precision, network.device
        self.preprocess, self.licence, self.published_ranges = network.preprocess, network.licence, ""
        self.layers = {"pixels": 3}
        self.provenance = network.provenance
        self.threads: set[int] = set()

    def __call__(self, images: torch.Tensor, sink: ActivationSink) -> None:
        self.threads.add(threading.get_ident())
        images = images.clone().requires_grad_()
        self.network.model(images).square().sum().backward()
        assert images.grad is not None
        sink("pixels", images.grad.flatten(2).transpose(1, 2))


@pytest.fixture(scope="module")
def network() -> FrozenNetwork:
    return build(named_extractor("test_vit", weights="random"))


def test_who_is_an_extractor(network: FrozenNetwork) -> None:
    assert isinstance(network, Extractor)
    assert isinstance(Pixels(), Extractor)
    assert isinstance(Gradients(network), Extractor)
    assert not isinstance(network.model, Extractor)
    assert not isinstance(network.config, Extractor)


def test_an_object_of_ones_own_is_measured() -> None:
    vdna = make_vdna(PICTURES, Pixels(), ["histogram-10", "gaussian"], device="cpu")
    assert (vdna.images, vdna.layers, vdna.spec.extractor) == (3, {"colour": 3}, "pixels")
    np.testing.assert_allclose(vdna.gaussian("colour").mean, np.mean([-1, -0.6, 1]), atol=1e-6)
    assert (vdna.histogram("colour").sum(axis=1) == 3 * 16).all()
    again = make_vdna(PICTURES[::-1], Pixels(), ["histogram-10"], ranges=vdna.spec.ranges, device="cpu")
    assert emd(vdna, again) == 0


def test_an_extractor_may_use_autograd(network: FrozenNetwork) -> None:
    extractor = Gradients(network)
    vdna = make_vdna(PICTURES, extractor, ["activation-ranges", "gaussian"], batch_size=1, threads=2, device="cpu")
    assert len(extractor.threads) == 2
    assert np.isfinite(vdna.gaussian().mean).all()
    assert (vdna.ranges().maximum > vdna.ranges().minimum).all()
    assert vdna.spec.network_id != network_spec(network).network_id


def test_a_worker_without_a_configuration_is_given_its_extractor() -> None:
    extractor = Pixels()
    job = Job(None, network_spec(extractor))
    with pytest.raises(ValueError, match="give the worker its extractor"):
        Worker(job)
    assert Worker(job, extractor).provenance()["colours"] == "RGB"


def test_neither_a_name_nor_an_extractor() -> None:
    with pytest.raises(UserError, match="give a name"):
        make_vdna(PICTURES, torch.nn.Identity())
