"""How a network runs: what it overwrites, streams, memory format, precision, compilation; JPEGs on the device.

Needs neither Ray nor Hydra, so that it runs on a bare GPU machine:
`python -m pytest --noconftest tests/unit/extractors/test_network.py`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from distributions import VDNA, ActivationRanges, HistogramAxes, Spec
from extractors import ExtractorConfig, ExtractorError, FrozenNetwork, Preprocess, build
from extractors.arithmetic import arithmetic
from extractors.network import check_device
from extractors.preprocess.device_decode import decode_jpegs, device_inputs
from extractors.sources import Network

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])


def random(model: str, device: str = "cpu", **options: Any) -> FrozenNetwork:
    return build(ExtractorConfig(model, model, weights="random", **options), device)


class Small(nn.Module):
    """Two layers, and something between them."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), between

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.first(images)
        if self.between == "inplace relu":
            nn.functional.relu_(x)
        elif self.between == "relu":
            x = nn.functional.relu(x)
        elif self.between == "written with the same values":
            x.mul_(1)
        elif self.between == "through a view":
            x.flatten(2)[:, 1:2].add_(1)
        shortcut, x = x, self.second(x)
        if self.between == "shortcut":
            x += shortcut
        return x


def small(between: str) -> Network:
    torch.manual_seed(0)
    return Network(Small(between), 8, (0.5,) * 3, (0.5,) * 3)


@DEVICES
@pytest.mark.parametrize(
    ("between", "overwritten"),
    [
        ("relu", set()),
        ("inplace relu", {"first"}),
        ("written with the same values", {"first"}),
        ("through a view", {"first"}),
        ("shortcut", {"second"}),
    ],
)
def test_overwritten_layers_are_found(device: str, between: str, overwritten: set[str]) -> None:
    extractor = FrozenNetwork(ExtractorConfig("small", "small", layers=["first", "second"]), small(between), device)
    assert extractor.overwritten == overwritten
    seen: dict[str, torch.Tensor] = {}
    extractor(torch.ones(1, 3, 8, 8), lambda layer, a: seen.update({layer: a.clone()}))
    assert (seen["first"] < 0).any()


def test_what_real_networks_overwrite() -> None:
    assert random("test_vit").overwritten == set()
    resnet = random("resnet18", layers=["layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2", "layer1.0"])
    assert resnet.overwritten == {"layer1.0.bn1", "layer1.0.bn2"}
    assert random("resnet18").overwritten == set()
    assert random("tf_efficientnet_lite0").overwritten == set()


def test_overwritten_layers_are_consumed_where_the_network_runs() -> None:
    """The others beside it; and the streams are joined, whatever happens."""
    events: list[str] = []

    class Recorder:
        def bring(self, images: torch.Tensor) -> torch.Tensor:
            events.append("bring")
            return images

        @contextmanager
        def beside(self, activations: torch.Tensor) -> Iterator[None]:
            events.append("beside")
            yield
            events.append("back")

        def join(self) -> None:
            events.append("join")

    extractor = FrozenNetwork(ExtractorConfig("small", "small", layers=["first", "second"]), small("inplace relu"))
    extractor._streams = Recorder()  # type: ignore[assignment]
    extractor(torch.ones(1, 3, 8, 8), lambda layer, a: events.append(layer))
    assert events == ["bring", "first", "beside", "second", "back", "join"]
    events.clear()
    with pytest.raises(KeyError):
        extractor(torch.ones(1, 3, 8, 8), lambda layer, a: {}[layer])
    assert events == ["bring", "join"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("model", "layers"), [("vit_tiny_patch16_224", "default"), ("resnet18", ["layer*.*.bn*"])])
def test_two_streams_count_the_same_as_one(model: str, layers: Any) -> None:
    side, alone = random(model, "cuda", layers=layers), random(model, "cuda", layers=layers)
    alone.overwritten = frozenset(alone.modules)
    assert side.overwritten < alone.overwritten
    batches = [torch.randn(64, 3, 224, 224).pin_memory() for _ in range(4)]
    states = [state_of(extractor, batches) for extractor in (side, alone)]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)


def state_of(extractor: FrozenNetwork, batches: list[torch.Tensor]) -> dict[str, np.ndarray]:
    observed = ActivationRanges(extractor.layers, extractor.device)
    extractor(batches[0], observed.update)
    names = ("histogram-1000", "gaussian", "layer-gaussian", "activation-ranges")
    ranges = HistogramAxes.calibrated(observed)
    vdna = VDNA(Spec("x", "a", "w", "p", "fp32", extractor.layers, names, ranges), extractor.device)
    for batch in batches:
        extractor(batch, vdna.update)
    return vdna.state()


@DEVICES
def test_convolutions_run_channels_last(device: str) -> None:
    """Then a pixel's channels are neighbours in memory, and what was loaded has the same hash and travels as before."""
    resnet, strides = random("resnet18", device), []
    assert resnet.memory_format == torch.channels_last
    resnet(torch.randn(2, 3, 224, 224), lambda layer, a: strides.append(a.stride()[1:]))
    assert strides == [(neurons, 1) for neurons in resnet.layers.values()]
    assert all(tensor.is_contiguous() for tensor in resnet.state().values())
    assert build(resnet.config, device, resnet.state()).weights_sha256 == resnet.weights_sha256
    assert random("test_vit", device).memory_format == torch.contiguous_format


@DEVICES
def test_precisions(device: str) -> None:
    images, seen = torch.randn(2, 3, 160, 160), {}
    for precision in ("fp32", "tf32", "bf16", "fp16") if device == "cuda" else ("fp32", "bf16", "fp16"):
        extractor = random("test_vit", device, precision=precision, layers=["blocks.*"])
        extractor(images, lambda layer, a, key=precision: seen.update({(key, layer): a.cpu().double()}))
    exact = seen["fp32", "blocks.5"]
    error = {key: float((a - exact).abs().max() / exact.abs().max()) for (key, layer), a in seen.items()
             if layer == "blocks.5"}  # fmt: skip
    assert 0 < error["fp16"] < error["bf16"] < 0.02
    assert error.get("tf32", 0) < error["bf16"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "tf32"}, r"precision=tf32 is CUDA's; .*precision=fp32"),
        ({"preprocess": {"resize": "device"}}, r"resize=device decodes on a GPU; .*resize=clean"),
        ({"compile": True}, r"needs a C\+\+ compiler: install g\+\+ or leave compile out"),
    ],
)
def test_what_is_not_had_from_a_processor(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(ExtractorError, match=message):
        check_device(ExtractorConfig("net", "test_vit", weights="random", **options), "cpu")
    check_device(ExtractorConfig("net", "test_vit", weights="random", **options), "cuda")


def test_a_device_that_decodes_nothing_is_not_the_files_fault(
    monkeypatch: pytest.MonkeyPatch, picture: np.ndarray
) -> None:
    for fault in (torch.OutOfMemoryError("full"), RuntimeError("built without nvJPEG")):

        def decode(*_: object, error: RuntimeError = fault, **__: object) -> None:
            raise error

        monkeypatch.setattr("extractors.preprocess.device_decode.decode_jpeg", decode)
        with pytest.raises(RuntimeError, match=str(fault)):
            decode_jpegs([jpeg(picture), jpeg(picture)], "cpu")


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
def test_float32_is_float32_while_the_network_runs_and_what_it_was_before_and_after() -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    assert any(before)
    for precision in ("fp32", "bf16", "tf32"):
        with pytest.raises(KeyError), arithmetic(precision, torch.device("cuda")):  # noqa: PT012
            assert [backend.allow_tf32 for backend in backends] == [precision == "tf32"] * 2
            raise KeyError
        assert [backend.allow_tf32 for backend in backends] == before


def activations(extractor: FrozenNetwork, images: torch.Tensor) -> tuple[list[str], list[torch.Tensor]]:
    fired: list[tuple[str, torch.Tensor]] = []
    extractor(images, lambda layer, a: fired.append((layer, a.cpu().clone())))
    return [layer for layer, _ in fired], [a for _, a in fired]


def jpeg(picture: np.ndarray, mode: str = "RGB", kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((300, 220), Image.Resampling.BICUBIC))


@DEVICES
@pytest.mark.parametrize("crop", ["none", "center", "random"])
def test_jpegs_become_inputs_on_the_device(device: str, crop: str, picture: np.ndarray) -> None:
    files = [
        jpeg(picture),
        jpeg(picture, progressive=True),
        jpeg(picture, "L"),
        jpeg(picture, quality=98, subsampling=0),
    ]
    preprocess = Preprocess(64, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop=crop)
    keys = [f"image {i}" for i in range(len(files))]
    made = device_inputs(files, keys, preprocess, device)
    for tensor, data, key in zip(made, files, keys, strict=True):
        assert tensor is not None
        assert tensor.device.type == device
        expected = preprocess(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), key)
        worst = (tensor.cpu() - expected).mul(torch.tensor(preprocess.std).view(3, 1, 1)).abs().max() * 255
        assert worst < (0.01 if device == "cpu" else 8)


@DEVICES
def test_what_the_device_does_not_take(device: str, picture: np.ndarray) -> None:
    whole = jpeg(picture)
    frame = whole.index(b"\xff\xc0") + 5
    tables = whole.index(b"\xff\xdb") + 5
    files = [
        whole,
        jpeg(picture, kind="PNG"),
        jpeg(picture, "CMYK"),
        jpeg(picture, keep_rgb=True),
        whole[: len(whole) // 2],
        whole[:frame] + b"\xff\xff\xff\xff" + whole[frame + 4 :],  # 65,535 pixels wide and high
        whole[:tables] + whole[frame - 5 : frame + 12] + b"\xff\xd9",  # no tables, no pixels
        b"",
        b"\xff\xd8\xff\xff\xd9",
        whole,
    ]
    assert [picture is not None for picture in decode_jpegs(files, device)] == [True, *[False] * 8, True]
