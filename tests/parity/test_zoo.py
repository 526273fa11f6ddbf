"""The vdna library's extractors: with an upstream checkpoint, every layer equals that of the library's own network.

And default layers of timm's families, as the table in docs/extractors.md has them.

`ZOO=full` (`make test-zoo`) adds the large ones, and all families to a sample of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from extractors import FrozenNetwork, WeightsError, build
from extractors.download.files import digest
from pipeline.config.networks import named_extractor
from tests.helpers import families

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import vdna.networks.clip as clip
    import vdna.networks.dino_resnet50 as dino_resnet50
    import vdna.networks.dino_vit as dino_vit
    import vdna.networks.inception_pytorch as inception
    import vdna.networks.mugs_vit as mugs
    import vdna.networks.random_resnet50 as random_resnet50
    import vdna.networks.vgg16 as vgg
    from vdna.utils.settings import ExtractionSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torchvision's, about the vdna library's arguments
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
FULL = os.environ.get("ZOO") == "full"
SETTINGS = ExtractionSettings(device="cpu")
VIT = {f"block_{i}": 768 for i in range(12)} | {"last_norm": 768}
LARGE = {f"block_{i}": 1024 for i in range(24)} | {"last_norm": 1024}
RESNET = {f"layer{s}_{i}": 128 * 2**s for s, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for i in range(n)}
RN50 = [64, *[256] * 3, *[512] * 4, *[1024] * 6, *[2048] * 3]
VGG = {(1, 2): 64, (2, 2): 128, (3, 3): 256, (4, 3): 512, (5, 3): 512}
LAYERS: dict[str, dict[str, int]] = {
    "mugs_vit_small": dict.fromkeys(VIT, 384),
    "mugs_vit_base": VIT,
    "mugs_vit_large": LARGE,
    "dino_vit_small": dict.fromkeys(VIT, 384),
    "dino_vit_base": VIT,
    "dino_resnet50": RESNET,
    "rand_resnet50": RESNET,
    "vgg16": {f"relu_{a}_{b}": n for (a, count), n in VGG.items() for b in range(1, count + 1)},
    "inception": {"block_0": 64, "block_1": 192, "block_2": 768, "block_3": 2048},
    "clip_im_vit_b32": VIT,
    "clip_im_vit_b16": VIT,
    "clip_im_vit_l14": LARGE,
    "clip_im_rn50": {f"block_{i}": n for i, n in enumerate(RN50)} | {"last_norm": 1024},
}
NEURONS = {
    "mugs_vit_base": 9984,
    "mugs_vit_large": 25600,
    "mugs_vit_small": 4992,
    "dino_resnet50": 15104,
    "vgg16": 4224,
}
NEURONS |= {"inception": 3072, "clip_im_vit_b16": 9984, "clip_im_vit_l14": 25600, "clip_im_rn50": 16192}
BIG = ("mugs_vit_large", "clip_im_vit_l14", "mugs_vit_base", "clip_im_vit_b16")
SAMPLE = ("crossvit", "efficientvim", "hrnet", "levit", "resnet", "tnt", "swin_transformer_v2")
CLIPS = {"vit_b32": (512, 224, 12, 768, 32), "vit_b16": (512, 224, 12, 768, 16), "vit_l14": (768, 224, 24, 1024, 14)}
CLIPS["rn50"] = (1024, 224, (3, 4, 6, 3), 64, None)  # type: ignore[assignment]


@contextlib.contextmanager
def patched(module: Any, **names: Any) -> Iterator[None]:
    """The vdna library downloads while it builds its networks: give it local objects instead."""
    before = {name: getattr(module, name) for name in names}
    try:
        for name, value in names.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


class Tree(nn.Module):
    """Tensors under dotted names: OpenAI's checkpoints are TorchScript programs."""

    def forward(self) -> int:
        return 0


def program(tensors: dict[str, torch.Tensor]) -> torch.jit.ScriptModule:
    root = Tree()
    for name, tensor in tensors.items():
        at = root
        *path, last = name.split(".")
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, Tree())
            at = getattr(at, part)
        at.register_buffer(last, tensor)
    return torch.jit.script(root)


@pytest.fixture
def seed_network(tmp_path: Path) -> Callable[[str], tuple[nn.Module, Path]]:
    """The vdna library's network of a name, and the checkpoint that it loaded, as upstream writes it."""
    ranges = tmp_path / "ranges.json"
    ranges.write_text(json.dumps({"mins_per_neuron": {}, "maxs_per_neuron": {}}))
    weights = tmp_path / "weights.pth"

    def hub(repo_id: str, filename: str) -> str:
        return str(weights if filename.endswith(".pth") else ranges)

    def of_clip(version: str) -> nn.Module:
        sizes = CLIPS[version]
        whole = clip.CLIP(*sizes, 77, 1000, 64, 1, 1).eval()
        spread(whole)
        clip.convert_weights(whole)
        facts = {name: torch.tensor(n) for name, n in (("input_resolution", 224), ("context_length", 77))}
        program({**whole.state_dict(), **facts, "vocab_size": torch.tensor(1000)}).save(str(weights))
        with (
            patched(clip, hf_hub_download=hub),
            patched(torch.hub, load_state_dict_from_url=lambda *a, **k: torch.jit.load(str(weights))),
        ):
            return clip.CLIPImEncoder(version, SETTINGS).float()

    def made(name: str) -> tuple[nn.Module, Path]:
        torch.manual_seed(0)
        family, _, version = name.rpartition("_")
        state: Any
        if family == "mugs_vit":
            kinds = {"small": mugs.vit_small, "base": mugs.vit_base, "large": mugs.vit_large}
            state = {"state_dict": spread(kinds[version](num_relation_blocks=1)).state_dict(), "epoch": 400}
            torch.save(state, weights)
            with patched(mugs, hf_hub_download=hub):
                return mugs.MugsViTFeatExtractor(version, SETTINGS), weights
        if name == "dino_vit_base":
            state = spread(dino_vit.vit_base(num_relation_blocks=1)).state_dict()
            torch.save(state, weights)
            with patched(dino_vit, hf_hub_download=hub, load_state_dict_from_url=lambda *a, **k: state):
                return dino_vit.DINOViTFeatExtractor("base", SETTINGS), weights
        if name.endswith("_resnet50"):
            module = dino_resnet50 if name.startswith("dino") else random_resnet50
            with patched(module, hf_hub_download=hub):
                network = module.ResNetFeatureExtractor(module.Bottleneck, [3, 4, 6, 3], extraction_settings=SETTINGS)
            plain = spread(network).state_dict()
            in_parallel = {f"module.{key}": value for key, value in plain.items()}
            torch.save(in_parallel if name.startswith("dino") else {"model_state_dict": plain}, weights)
            # Its forward calls .cuda(): without a GPU only the backbone can be asked.
            network.get_features = lambda images: network.forward_backbone(images)[1]
            return network, weights
        if name == "vgg16":
            whole = spread(vgg.models.vgg16())
            torch.save(whole.state_dict(), weights)
            with patched(vgg, hf_hub_download=hub), patched(vgg.models, vgg16=lambda pretrained: whole):
                return vgg.VGG16FeatExtractor(SETTINGS), weights
        if name == "inception":
            given: list[Any] = []
            with patched(inception, hf_hub_download=hub, load_state_dict_from_url=lambda *a, **k: given[0]):
                import pytorch_fid.inception as fid

                with patched(fid, load_state_dict_from_url=lambda *a, **k: {}):
                    network = spread(without_loading(fid.fid_inception_v3))
                given.append(network.state_dict())
                torch.save(given[0], weights)
                settings = {"resize_input": False, "normalize_input": False, "extraction_settings": SETTINGS}
                return inception.InceptionV3(output_blocks=[0, 1, 2, 3], **settings), weights
        return of_clip(name.removeprefix("clip_im_")), weights

    return made


def without_loading(make: Callable[[], nn.Module]) -> nn.Module:
    before = nn.Module.load_state_dict
    nn.Module.load_state_dict = lambda *a, **k: None  # type: ignore[method-assign]
    try:
        return make()
    finally:
        nn.Module.load_state_dict = before  # type: ignore[method-assign]


def spread(network: nn.Module) -> nn.Module:
    """Parameters that no initialisation made special: a zero or a one would hide a name that is not read."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            scale = 0.02 if tensor.ndim > 1 else 0.1
            if tensor.ndim == 4:
                scale = (2 / tensor[0].numel()) ** 0.5
            torch.nn.init.normal_(tensor, std=scale)
            if tensor.ndim == 1 and not name.endswith(("bias", "running_mean")):
                tensor.abs_().add_(0.8)
    return network


def of_seed(name: str, layer: str, output: torch.Tensor) -> torch.Tensor:
    """Its (samples, neurons, height, width) as (samples, positions, neurons)."""
    if layer == "last_norm" and name.startswith("clip_im_vit"):
        return output.permute(2, 0, 1, 3).flatten(2)  # (1, neurons, samples, 1): where the vdna library errs
    return output.flatten(2).transpose(1, 2)


def small(name: str) -> Any:
    skip = pytest.mark.skipif(not FULL, reason="one of the large ones: make test-zoo")
    return pytest.param(name, marks=skip) if name in BIG else name


@pytest.mark.parametrize("name", [small(name) for name in LAYERS if name != "dino_vit_small"])
def test_every_layer_is_the_seeds(name: str, seed_network: Callable[[str], tuple[nn.Module, Path]]) -> None:
    theirs, weights = seed_network(name)
    trust = {"sha256": digest(weights)} if name.startswith("clip") else {}
    ours = build(named_extractor(name, pretrained=str(weights), **trust))
    assert ours.layers == LAYERS[name]
    assert theirs.eval().network_settings.neurons_per_layer == ours.layers
    size = ours.preprocess.size
    assert theirs.network_settings.expected_size == (size, size)
    assert tuple(theirs.network_settings.norm_mean) == ours.preprocess.mean
    assert tuple(theirs.network_settings.norm_std) == ours.preprocess.std
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    mine: dict[str, torch.Tensor] = {}
    ours(images, lambda layer, activations: mine.update({layer: activations.clone()}))
    with torch.no_grad():
        expected = theirs.get_features(images)
    assert list(mine) == list(expected)
    for layer, output in expected.items():
        reference = of_seed(name, layer, output)
        assert mine[layer].shape == reference.shape, layer
        scale = max(float(reference.abs().max()), 1.0)
        assert float((mine[layer] - reference).abs().max()) <= 1e-5 * scale, layer
        assert float(reference.std()) > 1e-3, "a layer that is all the same proves nothing"


@pytest.mark.parametrize("name", list(LAYERS))
def test_layers_and_neurons(name: str) -> None:
    """Of every name, without a run of its network."""
    config = named_extractor(name)
    assert isinstance(config.layers, dict)
    assert list(config.layers) == list(LAYERS[name])
    assert NEURONS.get(name, sum(LAYERS[name].values())) == sum(LAYERS[name].values())
    assert config.licence


def test_a_program_is_not_run_unless_its_hash_is_stated(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    program({"visual.proj": torch.zeros(2, 2)}).save(str(path))
    with pytest.raises(WeightsError, match=r"is a TorchScript program; save its state_dict as safetensors, or vouch"):
        build(named_extractor("clip_im_vit_b32", pretrained=str(path)))


def test_the_small_dino_the_seed_cannot_build() -> None:
    extractor: FrozenNetwork = build(named_extractor("dino_vit_small", weights="random"))
    assert extractor.layers == LAYERS["dino_vit_small"]


def test_every_family_has_a_row() -> None:
    assert set(families.written()) == set(timm.list_modules())


@pytest.mark.parametrize("family", timm.list_modules() if FULL else SAMPLE)
def test_default_layers_of_a_family(family: str) -> None:
    model, size, rest = families.written()[family]
    if FULL:
        assert families.smallest(family) == (model, size)
    assert families.tried(model, size) == rest
