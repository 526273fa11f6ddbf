"""Models of every source: the table in docs/extractors.md, tokens, all layers, and networks of one's own."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from distributions import IncompatibleError, emd, nfd
from extractors import ExtractorConfig, ExtractorError, FrozenNetwork, LayerError, WeightsError, build
from pipeline import make_vdna
from pipeline.cli.extractors import main
from pipeline.config.networks import known_extractors, named_extractor
from pipeline.errors import UserError
from tests.helpers.commands import ROOT, command

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PICTURES = [np.random.default_rng(k).integers(0, 256, (90, 120, 3), dtype=np.uint8) for k in range(2)]
ROW = re.compile(r"\| `(\w+:\S+)` \| (\d+) \| (\d+) \| `(\S+)` \| `(\S+)` \|")
TABLE = ROW.findall((ROOT / "docs" / "extractors.md").read_text())


def random(model: str, source: str = "timm", **options: Any) -> FrozenNetwork:
    return build(ExtractorConfig("net", model, source, weights="random", **options))


def test_the_table_has_all_three_libraries() -> None:
    assert len(TABLE) >= 20
    assert {name.partition(":")[0] for name, *_ in TABLE} == {"timm", "torchvision", "open_clip"}


@pytest.mark.parametrize(("name", "layers", "neurons", "first", "last"), TABLE)
def test_a_row(name: str, layers: str, neurons: str, first: str, last: str) -> None:
    vdna = make_vdna(PICTURES, name, ["gaussian"], weights="random")
    names = list(vdna.layers)
    assert (len(names), sum(vdna.layers.values()), names[0], names[-1]) == (int(layers), int(neurons), first, last)
    mean, variance = vdna.gaussian()
    assert np.isfinite(mean).all()
    assert (variance >= 0).all()
    assert vdna.images == 2


def test_every_name_of_conf_names_a_model() -> None:
    """Without building the large ones: their libraries know them."""
    from extractors.sources import names

    models = {source: set(names(source)) for source in ("timm", "torchvision", "open_clip")}
    models["timm"] |= set(timm.list_pretrained())
    for name in known_extractors():
        config = named_extractor(name)
        assert config.source == "python" or config.model in models[config.source], name
        assert config.licence, name


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_packaged_weights(name: str) -> None:
    import skimage.data

    extractor = build(named_extractor(name))
    picture = extractor.preprocess(skimage.data.coffee())[None]
    with torch.inference_mode():
        assert extractor.model(picture).argmax() == 967  # espresso


def test_a_transformer_at_another_size(tmp_path: Path) -> None:
    """Positions of a published checkpoint are resampled, as timm does it."""
    torch.manual_seed(0)
    large = timm.create_model("vit_small_patch14_dinov2", img_size=70)
    torch.save(large.state_dict(), tmp_path / "w.pth")
    extractor = random("vit_small_patch14_dinov2", preprocess={"size": 56})
    assert extractor.model.state_dict()["pos_embed"].shape[1] == 17
    weights = str(tmp_path / "w.pth")
    made = build(ExtractorConfig("net", "vit_small_patch14_dinov2", weights=weights, preprocess={"size": 56}))
    small = timm.create_model("vit_small_patch14_dinov2", img_size=56)
    resampled = timm.models.vision_transformer.checkpoint_filter_fn(large.state_dict(), small)
    assert torch.equal(made.model.state_dict()["pos_embed"], resampled["pos_embed"])
    with pytest.raises(ExtractorError, match=r"vit_b_32 does not take images of 96 pixels \(Wrong image height"):
        random("vit_b_32", "torchvision", preprocess={"size": 96})


class TestTokens:
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))

    def seen(self, tokens: Any) -> dict[str, torch.Tensor]:
        extractor = random("test_vit", tokens=tokens)
        activations: dict[str, torch.Tensor] = {}
        extractor(self.images, lambda layer, a: activations.update({layer: a.clone()}))
        return activations

    def test_which_count(self) -> None:
        every = self.seen("all")
        assert every["norm"].shape[1] == 101
        for word, part in (("cls", slice(0, 1)), ("patches", slice(1, None))):
            for layer, activations in self.seen(word).items():
                assert torch.equal(activations, every[layer][:, part])
        for layer, activations in self.seen("mean").items():
            assert torch.allclose(activations[:, 0], every[layer].mean(1), atol=1e-6)
        some = self.seen({"blocks.[0-2]": "cls", "norm": "patches"})
        assert [some[layer].shape[1] for layer in some] == [1, 1, 1, 101, 101, 101, 100]

    def test_they_are_part_of_the_identity(self) -> None:
        architectures = [random("test_vit", tokens=tokens).architecture for tokens in ("all", "cls", {"norm": "cls"})]
        assert len(set(architectures)) == 3
        v, w = (make_vdna(PICTURES, "test_vit", ["gaussian"], weights="random", tokens=t) for t in ("all", "cls"))
        with pytest.raises(IncompatibleError, match="architecture: timm:test_vit#"):
            nfd(v, w)

    def test_what_cannot_be(self) -> None:
        with pytest.raises(LayerError, match="has no class token; use all, patches or mean"):
            random("vit_base_patch16_siglip_224", tokens="cls")
        with pytest.raises(LayerError, match="does not say which tokens are patches"):
            random("resnet18", tokens="patches")
        with pytest.raises(LayerError, match="has no class token"):
            random("resnet18", tokens="cls")
        with pytest.raises(LayerError, match=r"has 196 positions, no square beside 1 token.*may join later"):
            random("cait_xxs24_224", tokens="cls")
        with pytest.raises(LayerError, match=r"tokens: no layer nrom; there are blocks\.0"):
            random("test_vit", tokens={"nrom": "cls"})
        with pytest.raises(UserError, match=r"extractor\.tokens=class: allowed are all, cls, patches, mean"):
            named_extractor("test_vit", tokens="class")


def test_registers_are_no_patches() -> None:
    extractor = random("vit_small_patch14_reg4_dinov2", preprocess={"size": 56}, tokens="patches", layers=["norm"])
    counts: list[int] = []
    extractor(torch.zeros(1, 3, 56, 56), lambda layer, a: counts.append(a.shape[1]))
    assert counts == [16]
    extractor = random("vit_small_patch14_reg4_dinov2", preprocess={"size": 56}, tokens="cls", layers=["norm"])
    extractor(torch.zeros(1, 3, 56, 56), lambda layer, a: counts.append(a.shape[1]))
    assert counts == [16, 1], "the class token, beside which there are registers"


def test_all_layers() -> None:
    """Each module whose output is its own: not a block that passes on what its last module puts out."""
    extractor = random("resnet18", layers="all")
    assert {"conv1", "layer1.0.conv1", "layer1.0.act2", "layer4.1.act2", "fc"} <= set(extractor.layers)
    assert not {"layer1", "layer1.0", "layer4.1", "layer4"} & set(extractor.layers)
    assert extractor.layers["fc"] == 1000
    vit = random("test_vit", layers="all")
    assert {"blocks.0.attn.qkv", "blocks.0.mlp.fc1", "blocks.0", "norm"} <= set(vit.layers)
    assert len(vit.layers) == len(set(vit.layers)) > 60


def test_parts_of_an_image_are_no_samples() -> None:
    with pytest.raises(LayerError, match=r"puts out 64 parts of an image; choose a module around it"):
        random("swin_tiny_patch4_window7_224", layers=["layers.0.blocks.0.attn"])


@pytest.mark.parametrize(
    ("model", "layer", "neurons"),
    [
        ("convnext_atto", "stages.0.blocks.0.mlp.fc1", 160),
        ("convnext_atto", "stages.0.blocks.0", 40),
        ("swin_tiny_patch4_window7_224", "patch_embed.proj", 96),
        ("swin_tiny_patch4_window7_224", "layers.3.blocks.1", 768),
        ("mambaout_femto", "stages.0.blocks.0.conv", 48),
    ],
)
def test_neurons_are_never_positions(model: str, layer: str, neurons: int) -> None:
    """Outputs within one network are laid out either way."""
    assert random(model, layers=[layer]).layers[layer] == neurons


def test_a_network_whose_stages_are_not_all_sequences() -> None:
    assert "level5" in random("dla46x_c").layers


class Remembering(nn.Module):
    """A network that keeps something on itself between two of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 9, padding=4), nn.Conv2d(8, 8, 9, padding=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.kept = self.first(images)
        return self.second(self.kept.relu()) + self.kept


def test_a_network_that_remembers_runs_one_batch_at_a_time() -> None:
    sys.modules["remembering"] = type(sys)("remembering")
    sys.modules["remembering"].make = Remembering  # type: ignore[attr-defined]
    sizes = {"size": 64, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    extractor = random("remembering.make", "python", preprocess=sizes, layers=["second"])
    assert extractor._turn is not None
    assert random("test_vit")._turn is None
    pictures = PICTURES * 8
    means = {
        make_vdna(pictures, extractor, ["gaussian"], batch_size=1, threads=threads).gaussian().mean.round(9).tobytes()
        for threads in (1, 2, 2)
    }
    assert len(means) == 1


def test_normalised_as_it_was_trained() -> None:
    assert random("MobileCLIP-S1", "open_clip").preprocess.mean == (0.0, 0.0, 0.0)
    assert random("ViT-B-32", "open_clip").preprocess.std == (0.26862954, 0.26130258, 0.27577711)
    ids = {random("test_vit", preprocess={"mean": m, "std": (1, 1, 1)}).preprocess.id for m in ((0, 0, 0), (0.0,) * 3)}
    assert len(ids) == 1


def test_a_checkpoint_of_another_size() -> None:
    config = ExtractorConfig("net", "vit_b_32", "torchvision", weights="random", preprocess={})
    assert build(config).preprocess.size == 224
    from extractors.sources import create

    assert create("torchvision", "vit_b_16", tag="IMAGENET1K_SWAG_E2E_V1").size == 384
    assert create("torchvision", "resnet50", tag="IMAGENET1K_V1").size == 224


def test_layers_by_the_extractors_own_names() -> None:
    config = named_extractor("dino_vit_base", layers=["block_11", "last_norm"])
    assert config.layers == {"block_11": "blocks.11", "last_norm": "norm"}
    assert named_extractor("dino_vit_base", layers=("blocks.3",)).layers == ["blocks.3"]
    extractor = build(named_extractor("clip_im_vit_b32", weights="random", layers=["transformer.resblocks.[01]"]))
    assert len(extractor.layers) == 2, "what the file says of another module's tokens does not hinder"


def test_options_that_nobody_would_read_are_refused() -> None:
    extractor = random("test_vit")
    for options in ({"tokens": "cls"}, {"precision": "bf16"}, {"compile": True}):
        with pytest.raises(UserError, match=r"go to build\(\)"):
            make_vdna(PICTURES, extractor, ["gaussian"], **options)
    for options, message in (  # type: ignore[assignment]
        ({"seed": -1}, "not negative"),
        ({"preprocess": {"mean": (float("nan"),) * 3}}, "give three numbers"),
        ({"preprocess": {"mean": (True,) * 3}}, "give three numbers"),
        ({"without": "head"}, "give a list of names"),
    ):
        with pytest.raises(UserError, match=message):
            named_extractor("test_vit", weights="random", **options)
    with pytest.raises(ExtractorError, match=r"no such tag; there are resnet18\.a1_in1k"):
        random("resnet18.nosuch")


def test_tokens_before_samples() -> None:
    class Backwards(nn.Module):
        """(tokens, samples, neurons), as many a CLIP."""

        def __init__(self) -> None:
            super().__init__()
            self.cut, self.block = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.block(self.cut(images).flatten(2).permute(2, 0, 1))

    sys.modules["backwards"] = type(sys)("backwards")
    sys.modules["backwards"].make = Backwards  # type: ignore[attr-defined]
    options = {"preprocess": {"size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}, "layers": ["block"]}
    extractor = random("backwards.make", "python", **options)
    for samples in (1, 5, 16):
        shapes: list[torch.Size] = []
        extractor(torch.zeros(samples, 3, 16, 16), lambda layer, a, s=shapes: s.append(a.shape))
        assert shapes == [(samples, 16, 6)]


class TestOnesOwn:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The network of docs/extractors.md."""
        text = (ROOT / "docs" / "extractors.md").read_text()
        code = re.search(r"```python\n(# mine\.py.*?)```", text, re.DOTALL)
        assert code
        (tmp_path / "mine.py").write_text(code[1])
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        return tmp_path

    @pytest.mark.usefixtures("shared_ray")
    def test_as_documented(self, module: Path, demo_data: Path) -> None:
        """With Ray's actors, which import the same module; and with weights of its own."""
        import safetensors.torch
        from mine import network  # type: ignore[import-not-found]

        torch.manual_seed(5)
        safetensors.torch.save_file(network().state_dict(), module / "mine.safetensors")
        text = (ROOT / "docs" / "extractors.md").read_text()
        documented = re.search(r"(extractor=python.*?)```", text, re.DOTALL)
        assert documented
        import shlex

        given = shlex.split(documented[1].replace("\\\n", " "))
        images = f"dataset.url={next((demo_data / 'demo_faces').glob('*.tar'))}"
        done = command("dataset=images", "dataset.name=mine", images, *given, cwd=module)
        assert done.returncode == 0, done.stderr
        from pipeline import open_catalogue

        vdna = open_catalogue(str(module / "catalogue")).vdna("mine", "mine.network")
        assert vdna.layers == {"0": 16, "1": 32, "2": 64}
        assert vdna.images > 0
        assert vdna.spec.architecture.startswith("python:mine.network#")

    def test_what_is_missing(self, module: Path) -> None:
        sizes = {"size": 96, "mean": (0.5,) * 3, "std": (0.5,) * 3}
        with pytest.raises(ExtractorError, match=r"preprocess\.size: python does not say it of mine\.network; give it"):
            random("mine.network", "python")
        with pytest.raises(WeightsError, match=r"python publishes no weights for mine\.network; give"):
            build(ExtractorConfig("net", "mine.network", "python", preprocess=sizes))
        for name in ("mine.nothing", "nowhere.network", "network", "mine"):
            with pytest.raises(ExtractorError, match=r"cannot be called \(.*give MODULE\.FUNCTION"):
                random(name, "python", preprocess=sizes)
        (module / "mine.py").write_text("def network():\n    return 3\n")
        sys.modules.pop("mine", None)
        with pytest.raises(ExtractorError, match="returns int, not a torch module"):
            random("mine.network", "python", preprocess=sizes)

    def test_torch_hub(self, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A repository in a folder; its own weights only when they are asked for."""
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        (module / "hubconf.py").write_text(
            "from mine import network\n"
            "def tiny(pretrained=False):\n"
            "    made = network()\n"
            "    if pretrained:\n"
            "        made[0][0].bias.data.fill_(7)\n"
            "    return made\n"
            "def plain():\n"
            "    return network()\n"
        )
        options: dict[str, Any] = {"preprocess": {"size": 96, "mean": (0.5,) * 3, "std": (0.5,) * 3}}
        untrained = random(f"{module}/tiny", "hub", **options)
        trained = build(ExtractorConfig("net", f"{module}/tiny", "hub", **options))
        assert (trained.model[0][0].bias == 7).all()
        assert not (untrained.model[0][0].bias == 7).any()
        rebuilt = build(ExtractorConfig("net", f"{module}/tiny", "hub", **options), state=trained.state())
        assert rebuilt.weights_sha256 == trained.weights_sha256
        assert random(f"{module}/plain", "hub", **options).layers
        with pytest.raises(ExtractorError, match=r"torch\.hub cannot load it"):
            random(f"{module}/large", "hub", **options)
        with pytest.raises(ExtractorError, match=r"there is no /nowhere/at/all/hubconf\.py"):
            random("/nowhere/at/all/entry", "hub", **options)
        with pytest.raises(ExtractorError, match="give OWNER/REPOSITORY/ENTRY"):
            random("tiny", "hub", **options)


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        ("resnet_18", "torchvision", r"torchvision has no such model; similar: resnet18.*pipeline\.extractors list"),
        ("ViT-B-61", "open_clip", r"open_clip has no such model; similar: ViT-B-16"),
        ("fasterrcnn_resnet50_fpn", "torchvision", "torchvision has no such model"),
        ("resnet18", "keras", "allowed are timm, torchvision, open_clip, hub, python"),
    ],
)
def test_what_there_is_not(model: str, source: str, message: str) -> None:
    with pytest.raises(ExtractorError, match=message):
        random(model, source)


@pytest.mark.parametrize(
    ("model", "older"),
    [
        ("densenet121", lambda name: re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name)),
        ("vit_b_32", lambda name: name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")),
        ("googlenet", str),
    ],
)
def test_torchvisions_older_files(model: str, older: Callable[[str], str], tmp_path: Path) -> None:
    """Files as they were published: names of their time, and classifiers of the training."""
    torch.manual_seed(1)
    state = random(model, "torchvision").model.state_dict()
    old = {older(name): tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert model == "googlenet" or set(old) - set(state)
    torch.save({**old, **({"aux1.fc2.weight": torch.ones(2)} if model == "googlenet" else {})}, tmp_path / "w.pth")
    made = build(ExtractorConfig("net", model, "torchvision", weights=str(tmp_path / "w.pth"), seed=9))
    for name, tensor in made.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_weights_by_tag() -> None:
    with pytest.raises(WeightsError, match=r"publishes no weights V9 for resnet50; there are IMAGENET1K_V1, "):
        build(ExtractorConfig("net", "resnet50", "torchvision", pretrained="published:V9"))
    with pytest.raises(WeightsError, match=r"publishes no weights none for ViT-B-32; there are openai, laion400m_e31"):
        build(ExtractorConfig("net", "ViT-B-32", "open_clip", pretrained="published:none"))
    with pytest.raises(ExtractorError, match=r"extractor\.without=\['tail'\]"):
        random("resnet18", without=("tail",))


class TestPositions:
    def test_what_counts(self) -> None:
        options: dict[str, Any] = {"extractor": "test_vit", "weights": "random"}
        first = make_vdna(PICTURES, distributions=["histogram-50", "gaussian", "layer-gaussian"], **options)
        positions = {"histogram": "mean", "gaussian": "all", "layer-gaussian": "all"}
        other = make_vdna(
            PICTURES, distributions=list(first.distributions), positions=positions, ranges=first.spec.ranges, **options
        )
        assert first.histogram("norm").sum(1).max() == 2 * 101
        assert other.histogram("norm").sum(1).max() == 2
        assert int(other.state()["count"][0]) == 2 * 101
        np.testing.assert_allclose(other.gaussian("norm").mean, first.gaussian("norm").mean, rtol=1e-9, atol=1e-12)
        seen: dict[str, torch.Tensor] = {}
        extractor = build(named_extractor("test_vit", weights="random"))
        images = torch.stack([extractor.preprocess(picture) for picture in PICTURES])
        extractor(images, lambda layer, a: seen.update({layer: a.double().flatten(0, 1)}))
        np.testing.assert_allclose(other.gaussian("norm").variance, seen["norm"].var(0), rtol=1e-4)
        np.testing.assert_allclose(other.layer_gaussian("norm").covariance, seen["norm"].T.cov(), rtol=1e-3, atol=1e-5)
        assert first.spec.id != other.spec.id
        with pytest.raises(IncompatibleError, match="positions: "):
            emd(first, other)
        with pytest.raises(UserError, match=r"positions=\{gaussian: some\}: give all or mean"):
            make_vdna(PICTURES, positions={"gaussian": "some"}, distributions=["gaussian"], **options)


class TestCommandLine:
    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["list"]) == 0
        output = capsys.readouterr().out
        assert all(name in output for name in ("mugs_vit_base", "clip_im_rn50", "dinov3_vit_base", "MIT"))
        assert main(["list", "torchvision"]) == 0
        assert "resnet50" in capsys.readouterr().out.splitlines()

    def test_show(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["show", "test_vit"]) == 0
        output = capsys.readouterr().out
        assert "7 layers, 448 neurons" in output
        assert re.search(r"norm +│ norm +│ 64 +│ 101", output)
        assert main(["show", "timm:test_vit", "--all"]) == 0
        assert "blocks.0.attn.qkv" in capsys.readouterr().out
        assert main(["show", "nothing"]) == 2
        assert "nor SOURCE:MODEL (sources: timm, torchvision" in capsys.readouterr().err
