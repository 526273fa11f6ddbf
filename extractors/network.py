"""The extractor: a frozen network that hands out its layers' activations while it runs.

extractor = build(ExtractorConfig(name="efficientnet_lite0", model="tf_efficientnet_lite0", ...))
extractor.layers                          # {"blocks.0.0": 16, ...} in network order
extractor(images, vdna.update)            # images (samples, 3, size, size) float32
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from extractors import weights
from extractors.layers import ExtractorError, LayerError, Layers, Sink, as_positions, choose
from extractors.preprocess import Preprocess

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class ExtractorConfig:
    """What `conf/extractor/NAME.yaml` says. `None` in `preprocess` means the model's own value.

    `weights` is "pretrained", "random" (with `seed`) or a path or URL; `pretrained` says what
    "pretrained" stands for: "timm" (the model's published file), a URL, `hf:` or `package:`.
    """

    name: str
    model: str
    weights: str = "pretrained"
    pretrained: str = "timm"
    match: str = "name"
    seed: int = 0
    layers: Layers = "default"
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    licence: str = ""


class Extractor:
    """A network in evaluation mode with a hook on every layer.

    A layer's activations go to the sink as the layer fires and are not kept: memory does not grow
    with the number of layers.
    """

    def __init__(self, config: ExtractorConfig, model: nn.Module, device: torch.device | str = "cpu") -> None:
        if config.precision not in PRECISIONS:
            raise ExtractorError(f"precision={config.precision}: allowed are {', '.join(PRECISIONS)}")
        self.config = config
        self.name = config.name
        self.weights_sha256 = weights.digest(model)
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.preprocess = _preprocess(config, model)
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._sink: Sink | None = None
        self.modules = choose(model, config.layers)
        named = dict(model.named_modules())
        for layer, module in self.modules.items():
            named[module].register_forward_hook(partial(self._fire, layer))
        self.layers = self._dry_run()
        self.architecture = self._architecture()

    def _fire(self, layer: str, module: nn.Module, inputs: object, output: object) -> None:
        if self._sink is not None:
            self._sink(layer, as_positions(layer, output, self._channels_last))

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, sink: Sink) -> None:
        """Run (samples, 3, size, size) float32 images; `sink(layer, (samples, positions, neurons))` as layers fire.

        What the sink gets is a view that the network may overwrite later: consume or copy it at once.
        """
        self._sink = sink
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                self.model(images.to(self.device, non_blocking=True))
        finally:
            self._sink = None

    def _dry_run(self) -> dict[str, int]:
        """Neurons of each layer in the order they fire, from one blank image."""
        fired: list[tuple[str, int]] = []
        self(torch.zeros(1, 3, self.preprocess.size, self.preprocess.size), lambda k, a: fired.append((k, a.shape[2])))
        names = [layer for layer, _ in fired]
        for layer, module in self.modules.items():
            if names.count(layer) != 1:
                raise LayerError(
                    f"layer {layer!r} ({module}) fires {names.count(layer)} times per image; once is needed"
                )
        return dict(fired)

    def _architecture(self) -> str:
        """The model's name and a hash of which of its modules the layers are."""
        modules = json.dumps([(layer, self.modules[layer]) for layer in self.layers])
        return f"timm:{self.config.model}#{hashlib.sha256(modules.encode()).hexdigest()[:12]}"

    def state(self) -> weights.State:
        """The parameters and buffers, for building the same network elsewhere."""
        return {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}


def build(
    config: ExtractorConfig, device: torch.device | str = "cpu", state: Mapping[str, torch.Tensor] | None = None
) -> Extractor:
    """Make the network and load its weights: from the configured source, or `state` from another process.

    Raises `WeightsError`, `LayerError` or `ExtractorError`, each saying what to change.
    """
    if not timm.is_model(config.model):
        close = timm.list_models(f"*{config.model.split('_')[0]}*")[:8]
        raise ExtractorError(
            f"extractor.model={config.model}: timm has no such model"
            + (f"; similar: {', '.join(close)}" if close else "; see timm.list_models()")
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: nn.Module = timm.create_model(config.model, pretrained=False)
    if state is not None:
        if set(state) != set(model.state_dict()):
            model.reset_classifier(0)  # type: ignore[operator]
        model.load_state_dict(dict(state))
    elif config.weights != "random":
        _load(config, model)
    return Extractor(config, model, device)


def _load(config: ExtractorConfig, model: nn.Module) -> None:
    published: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # timm's
    source = config.pretrained if config.weights == "pretrained" else config.weights
    if source == "timm":
        repository = published.get("hf_hub_id")
        source = f"hf:{repository}/model.safetensors" if repository else published.get("url") or ""
    if not source:
        raise weights.WeightsError(
            f"timm publishes no weights for {config.model}; give extractor.weights=PATH or extractor.weights=random"
        )
    state = weights.read(weights.fetch(source))
    by_order = config.match == "order" and state.keys() != model.state_dict().keys()
    weights.fit(model, state, by_order, published.get("classifier"), source)


def _preprocess(config: ExtractorConfig, model: nn.Module) -> Preprocess:
    published: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]  # timm's
    own = {key: value for key, value in config.preprocess.items() if value is not None}
    unknown = own.keys() - {"size", "mean", "std", "resize", "crop"}
    if unknown:
        raise ExtractorError(
            f"extractor.preprocess.{min(unknown)}: unknown key; allowed are size, mean, std, resize, crop"
        )
    defaults = {"size": published["input_size"][-1], "mean": published["mean"], "std": published["std"]}
    values = {**defaults, **own}
    return Preprocess(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
