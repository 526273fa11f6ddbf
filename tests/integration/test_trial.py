"""Default layers are tried before they are believed, and whatever a model library raises is one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from extractors import ExtractorConfig, ExtractorError, FrozenNetwork, LayerError, WeightsError, build
from extractors.sources import names
from pipeline import make_vdna
from pipeline.cli.extractors import main
from pipeline.config.networks import named_extractor
from pipeline.errors import Terminated

SIZES = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
Make = Callable[[], nn.Module]


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FrozenNetwork]:
    """Builds a network of one's own from the function that makes it."""

    def built(make: Make, state: Any = None, **options: Any) -> FrozenNetwork:
        module = type(sys)("own_network")
        module.make = make  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "own_network", module)
        options = {"weights": "random", "preprocess": SIZES, **options}
        return build(ExtractorConfig("net", "own_network.make", "python", **options), state=state)

    return built


class Block(nn.Module):
    """A block whose output the caller makes of its activations (1, 4, 32, 32)."""

    def __init__(self, says: Callable[[torch.Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.conv, self.act, self.says = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), says

    def forward(self, x: torch.Tensor) -> Any:
        return self.says(self.act(self.conv(x[:, :3])))


class Blocks(nn.Module):
    """Two good blocks with an odd one between them, which is called so many times and whose output nobody needs."""

    def __init__(self, odd: nn.Module, calls: int = 1) -> None:
        super().__init__()
        self.blocks, self.calls = nn.ModuleList([Block(), odd, Block()]), calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.calls):
            self.blocks[1](x)
        out: torch.Tensor = self.blocks[2](self.blocks[0](x))
        return out


class Pair(nn.Module):
    """A list of blocks that is only read from."""

    def __init__(self) -> None:
        super().__init__()
        self.some = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {str(k): block(x) for k, block in enumerate(self.some)}


LEFT_OUT: list[tuple[Make, str, list[str]]] = [
    (lambda: Blocks(Block(), 0), "fires 0 times per image", []),
    (lambda: Blocks(Block(), 2), "fires 2 times per image", []),
    (lambda: Blocks(Block(lambda x: {"x": x})), "puts out dict", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: None)), "puts out NoneType", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: [])), "puts out list", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: [{"x": x}])), "puts out dict", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: x.argmax(1))), r"puts out int64(1, 32, 32)", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: x.unsqueeze(1))), "puts out float32(1, 1, 4, 32, 32)", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: x.mean())), "puts out float32()", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: x[:, :0])), "puts out float32(1, 0, 32, 32)", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: x.to(torch.complex64))), "puts out complex64(1, 4, 32, 32)", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: x.reshape(-1, 4, 16, 16))), "puts out 4 parts of an image", ["blocks.1.act"]),
    (lambda: Blocks(Block(lambda x: x.reshape(-1, 4))), "puts out 1024 parts of an image", ["blocks.1.act"]),
    (lambda: Blocks(Pair()), "puts out dict", ["blocks.1.some.1"]),
]
"""Networks, why `blocks.1` cannot be measured, and what counts instead."""


@pytest.mark.parametrize(("make", "reason", "instead"), LEFT_OUT, ids=[reason for _, reason, _ in LEFT_OUT])
def test_what_cannot_be_measured_is_left_out_of_a_choice_that_nobody_made(
    make: Make, reason: str, instead: list[str], own: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        extractor = own(make)
    assert set(extractor.layers) == {"blocks.0", "blocks.2", *instead}
    assert extractor.left_out["blocks.1"] == (reason, tuple(instead))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("own_network.make: default layers that cannot be measured: blocks.1 (")
    assert reason in line
    assert all(name in line for name in instead)
    caplog.clear()
    again = own(make, extractor.state())
    assert (again.architecture, again.weights_sha256) == (extractor.architecture, extractor.weights_sha256)
    assert not caplog.records, "said once, by the process that chose"
    with pytest.raises(LayerError, match=r"layer 'blocks\.1'"):
        own(make, layers=["blocks.1"])
    assert "blocks.1" not in own(make, layers="all").layers


def test_batches_through_what_is_left(own: Any) -> None:
    make = LEFT_OUT[11][0]
    seen: dict[str, tuple[int, ...]] = {}
    own(make)(torch.rand(5, 3, 32, 32), lambda layer, a: seen.update({layer: tuple(a.shape)}))
    assert seen == dict.fromkeys(("blocks.0", "blocks.1.act", "blocks.2"), (5, 1024, 4))


def test_nothing_is_left(own: Any) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.blocks(self.blocks(x))
            return out

    with pytest.raises(LayerError) as raised:
        own(Twice)
    assert str(raised.value) == (
        "python:own_network.make: none of the modules that look like its layers can be measured: blocks.0, blocks.1 "
        "(fires 2 times per image); name others with layers=[...]: python -m pipeline.extractors show "
        "python:own_network.make --all"
    )


@pytest.mark.parametrize(
    ("model", "layers", "instead"),
    [
        ("crossvit_tiny_240", 8, ["norm.0", "norm.1"]),
        ("hrnet_w18_small", 16, [f"downsamp_modules.{k}.2" for k in range(3)]),
        ("tnt_s_legacy_patch16_224", 13, [f"blocks.{k}.mlp" for k in range(12)]),
    ],
)
def test_families_of_which_a_block_is_no_layer(model: str, layers: int, instead: list[str]) -> None:
    extractor = build(ExtractorConfig("net", model, weights="random"))
    assert len(extractor.layers) == layers
    assert [name for each in extractor.left_out.values() for name in each.instead] == instead
    assert set(instead) <= set(extractor.layers)


def test_what_is_left_out_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "timm:crossvit_tiny_240"]) == 0
    captured = capfd.readouterr()
    assert "8 layers" in captured.out
    assert "left out" in captured.out
    assert "norm (fires 0 times per image); instead norm.0, norm.1" in captured.out


def test_a_null_is_the_default() -> None:
    assert named_extractor("crossvit_tiny_240", layers=None).layers == "default"


class Odd(nn.Module):
    """Convolutions, and one parameter or buffer of another kind."""

    def __init__(self, odd: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        if isinstance(odd, nn.Module | nn.Parameter):
            self.odd = odd
        else:
            self.register_buffer("odd", odd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(self.a(x))
        return out


@pytest.mark.parametrize(
    "odd",
    [
        lambda: nn.Conv3d(1, 2, 3),
        lambda: nn.ConvTranspose3d(1, 2, 3),
        lambda: nn.Conv1d(1, 2, 3),
        lambda: nn.Parameter(torch.rand(1, 2, 3, 4, 5, 6)),
        lambda: nn.Parameter(torch.rand(())),
        lambda: nn.Parameter(torch.rand((), dtype=torch.bfloat16)),
        lambda: nn.Parameter(torch.rand(0, 3, 2, 2)),
        lambda: torch.ones(2, 3, 2, 2, dtype=torch.int64),
        lambda: torch.ones(2, 3, 2, 2, dtype=torch.bool),
        lambda: torch.rand(2, 3, 2, 2, 2),
    ],
)
def test_parameters_of_any_form(odd: Callable[[], Any], own: Any) -> None:
    torch.manual_seed(0)
    extractor = own(lambda: Odd(odd()), layers=["a", "b"])
    assert extractor.memory_format == torch.channels_last
    assert extractor.model.b.weight.is_contiguous(memory_format=torch.channels_last)
    assert extractor.layers == {"a": 4, "b": 4}
    assert own(lambda: Odd(odd()), extractor.state(), layers=["a", "b"]).weights_sha256 == extractor.weights_sha256


def test_three_dimensional_convolutions_give_the_numbers_that_they_give_alone() -> None:
    extractor = build(named_extractor("timm:lambda_resnet26t", weights="random"))
    assert len(extractor.layers) == 13
    images = torch.rand(2, 3, 256, 256)
    seen: dict[str, torch.Tensor] = {}
    extractor(images, lambda layer, a: seen.update({layer: a.clone()}))
    torch.manual_seed(0)
    alone = timm.create_model("lambda_resnet26t").eval()
    with torch.no_grad():
        expected = alone.forward_features(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(list(seen.values())[-1], expected, rtol=1e-4, atol=1e-5)


class Failing(nn.Module):
    """Fails where the caller wants it to."""

    def __init__(self, at: int = 1, error: BaseException | None = None) -> None:
        super().__init__()
        self.blocks, self.at, self.error = nn.Sequential(Block(), Block()), at, error or KeyError("x")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) >= self.at:
            raise self.error
        out: torch.Tensor = self.blocks(x)
        return out


def raising(error: BaseException) -> Make:
    def make() -> nn.Module:
        raise error

    return make


@pytest.mark.parametrize(
    "error", [KeyError("width"), RecursionError("deep\nand deeper"), SystemExit(2), ImportError("flash"), Exception()]
)
def test_what_fails_is_one_line_with_the_models_name(error: BaseException, own: Any) -> None:
    texts = [f"own_network.make: cannot be called ({type(error).__name__}"]
    with pytest.raises(ExtractorError) as made:
        own(raising(error))
    failures = [made.value]
    if isinstance(error, Exception):
        with pytest.raises(ExtractorError) as run:
            own(lambda: Failing(1, error))
        extractor = own(lambda: Failing(2, error))
        with pytest.raises(ExtractorError) as batch:
            extractor(torch.rand(2, 3, 32, 32), lambda layer, a: None)
        failures += [run.value, batch.value]
        texts += [
            "own_network.make does not take images of 32 pixels (",
            "own_network.make fails on 2 images at once (",
        ]
    for failure, text in zip(failures, texts, strict=True):
        assert text in str(failure)
        assert "\n" not in str(failure)


def test_a_network_that_ends_the_program_is_one_line(own: Any) -> None:
    with pytest.raises(ExtractorError, match=r"^own_network\.make ends the program when it is run on an image \(3\)"):
        own(lambda: Failing(1, SystemExit(3)))
    extractor = own(lambda: Failing(2, SystemExit(3)))
    with pytest.raises(ExtractorError, match=r"^own_network\.make fails on 2 images at once \(SystemExit: 3\)"):
        extractor(torch.rand(2, 3, 32, 32), lambda layer, a: None)


def marked() -> SystemExit:
    """As Ray's handler of signals raises it."""
    error = SystemExit(1)
    error.is_ray_terminate = True  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated(143), marked()], ids=["key", "signal", "Ray"])
def test_who_ends_the_program_otherwise_is_heeded(error: BaseException, own: Any) -> None:
    with pytest.raises(type(error)):
        own(lambda: Failing(1, error))
    extractor = own(lambda: Failing(2, error))
    with pytest.raises(type(error)):
        extractor(torch.rand(2, 3, 32, 32), lambda layer, a: None)
    with pytest.raises(type(error)):
        own(raising(error))


class Flat(nn.Module):
    """A network of 3-D convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(3, 8, (1, 3, 3), 2), nn.Conv3d(8, 8, (1, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(self.a(x[:, :, None]))
        return out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Failing(9).half(), r"has parameters of float16 \(.*: return it as float32 \(network\.float\(\)\)"),
        (lambda: Failing(9).bfloat16(), r"has parameters of bfloat16 \(.*return it as float32"),
        (lambda: Failing(9).double(), r"has parameters of float64 \(.*return it as float32"),
        (lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()), r"takes images of 1 channel\(s\), and pictures have 3"),
        (lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU()), r"takes images of 4 channel\(s\), and pictures have 3"),
        (Flat, r"layers=all: none of its modules can be measured: a \(puts out float32\(1, 8, 1, 15, 15\)\); b"),
    ],
)
def test_what_a_network_cannot_take_is_said(make: Make, message: str, own: Any) -> None:
    with pytest.raises(ExtractorError, match=message) as error:
        own(make, layers="all")
    assert "preprocess.size" not in str(error.value)


def test_a_batch_that_fails_through_make_vdna(own: Any) -> None:
    pictures = [np.zeros((40, 40, 3), np.uint8)] * 3
    with pytest.raises(
        ExtractorError, match=r"own_network\.make fails on 3 images at once \(KeyError: 'x'\): try anoth"
    ):
        make_vdna(pictures, own(lambda: Failing(2)), ["gaussian"], threads=1)
    assert make_vdna(pictures, own(lambda: Failing(2)), ["gaussian"], threads=1, batch_size=1).images == 3


def test_what_takes_the_activations_fails_as_it_is(own: Any) -> None:
    extractor = own(lambda: Failing(9))

    def sink(layer: str, activations: torch.Tensor) -> None:
        raise LookupError(layer)

    with pytest.raises(LookupError, match=r"^blocks\.0$"):
        extractor(torch.rand(1, 3, 32, 32), sink)


@pytest.mark.parametrize(
    ("source", "model", "library"),
    [
        ("timm", "test_vit", "timm.create_model"),
        ("torchvision", "resnet18", "torchvision.models.get_model"),
        ("open_clip", "ViT-B-32", "open_clip.model._build_vision_tower"),
    ],
)
@pytest.mark.parametrize("error", [TypeError("got an unexpected keyword"), ImportError("No module named 'x'\nhint")])
def test_what_a_library_raises_is_one_line(
    source: str, model: str, library: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(library, fails)
    with pytest.raises(ExtractorError) as raised:
        build(ExtractorConfig("net", model, source, weights="random"))
    assert str(raised.value).startswith(f"extractor.model={model}: {source} cannot make it ({type(error).__name__}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224"])
def test_another_networks_checkpoint_is_one_line(model: str, tmp_path: Path) -> None:
    """timm's filters reach for names that it lacks."""
    for number, tensors in enumerate(({"x": torch.ones(2)}, timm.create_model("test_resnet").state_dict())):
        path = tmp_path / f"{number}.safetensors"
        safetensors.torch.save_file(tensors, path)
        with pytest.raises(WeightsError, match=rf"^{path} does not fit .*extractor\.prefix=") as raised:
            build(ExtractorConfig("net", model, weights=str(path)))
        assert "\n" not in str(raised.value)


def test_a_filter_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **options: object) -> None:
        raise KeyError("patch_embed.proj.weight")

    monkeypatch.setattr(timm.models.vision_transformer, "checkpoint_filter_fn", fails)
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit test_vit \(KeyError: 'patch_embed\.proj\.weight'\); give"):
        build(ExtractorConfig("net", "test_vit", weights=str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_tiny_patch16_224", 7), ("levit_128s", 3), ("convnext_atto", 1), ("torchvision:vit_b_32", 100)],
)
def test_sizes_that_do_not_suit(name: str, size: int) -> None:
    with pytest.raises(ExtractorError, match=rf"{name.rpartition(':')[2]}.*\b{size}\b") as raised:
        build(named_extractor(name, weights="random", preprocess={"size": size}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("info", [None, "stages", 3, [], ["a"], [{"num_chs": 4}], [{"module": None}], [{"module": 3}]])
def test_something_of_ones_own_that_is_called_feature_info(info: Any, own: Any) -> None:
    def make() -> nn.Module:
        made = Blocks(Block())
        made.feature_info = info
        return made

    assert set(own(make).layers) == {"blocks.0", "blocks.1", "blocks.2"}


class TestImageHalves:
    def test_clips_whose_text_half_is_of_another_library(self) -> None:
        """Made without memory; none asks for that library, which is not installed. `ZOO=full` adds all other CLIPs."""
        import open_clip

        from extractors.sources import create

        with pytest.raises(ImportError):
            __import__("transformers")
        foreign = [m for m in names("open_clip") if "hf_model_name" in open_clip.get_model_config(m)["text_cfg"]]
        assert len(foreign) > 5
        for model in names("open_clip") if os.environ.get("ZOO") == "full" else foreign:
            with torch.device("meta"):
                network = create("open_clip", model)
            assert not [name for name, _ in network.module.named_modules() if name.startswith(("text", "token_emb"))]

    @pytest.mark.parametrize("model", ["ViT-B-32", "RN50", "ViT-S-32-alt", "MobileCLIP-S1"])
    def test_it_is_the_one_that_a_whole_clip_has(self, model: str) -> None:
        import open_clip

        torch.manual_seed(0)
        whole = open_clip.create_model(model, load_weights=False).visual.state_dict()
        half = build(ExtractorConfig("net", model, "open_clip", weights="random")).model.state_dict()
        assert list(half) == list(whole)
        assert all(torch.equal(half[name], whole[name]) for name in whole)

    def test_one_whose_text_half_is_of_another_library(self) -> None:
        extractor = build(named_extractor("open_clip:roberta-ViT-B-32", weights="random"))
        assert len(extractor.layers) == 13
