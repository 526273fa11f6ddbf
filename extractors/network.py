"""The frozen network: an extractor that gives out the activations of a network's layers while the network runs.

extractor = build(ExtractorConfig(name="efficientnet_lite0", model="tf_efficientnet_lite0", ...))
extractor.layers                          # {"blocks.0.0": 16, ...} in network order
extractor(images, vdna.update)            # images (samples, 3, size, size) float32
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import nn

from extractors import weights
from extractors.arithmetic import PRECISIONS, arithmetic
from extractors.base import ActivationSink
from extractors.download.files import line_of
from extractors.errors import ExtractorError, LayerError
from extractors.layers import (
    Layers,
    Tokens,
    as_positions,
    foreign,
    neurons_last,
    of_signal,
    picked,
    tokens_first,
    tokens_of,
)
from extractors.preprocess.transform import Preprocess
from extractors.sources import Network
from extractors.streams import Streams
from extractors.trial import LeftOut, chosen, refused


@dataclass(frozen=True)
class ExtractorConfig:
    """What `conf/extractor/NAME.yaml` says. `None` in `preprocess` means the model's own value.

    `source` is one of `sources.SOURCES` and `model` a name there; `without` are modules that are left out of it.
    `weights` is "pretrained", "random" (with `seed`) or a path or URL; `pretrained` says what "pretrained" stands for:
    "published" (what the source publishes) or "published:TAG", a URL, `hf:` or `package:`, with its `sha256` if that is
    known. Of a checkpoint the tensors under `prefix` are taken, but those that fit `ignore`; their names `match` by
    "name", or in "order". `tokens` says which positions of a layer count. `ranges` is where activation ranges are
    published. `compile` makes each layer's module one compiled function, which may change last bits.
    """

    name: str
    model: str
    source: str = "timm"
    weights: str = "pretrained"
    pretrained: str = "published"
    sha256: str = ""
    prefix: str = ""
    ignore: Sequence[str] = ()
    match: str = "name"
    seed: int = 0
    without: Sequence[str] = ()
    layers: Layers = "default"
    tokens: Tokens = "all"
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    compile: bool = False
    ranges: str = ""
    licence: str = ""


class FrozenNetwork:
    """A network in evaluation mode with a hook on every layer.

    A layer's activations go to the sink as the layer fires and are not kept: memory does not grow
    with the number of layers. On a GPU the sink's work runs beside the next layers', except for layers whose
    output the network itself overwrites later.

    `memory_format` is how pictures lie in memory: channels last for convolutional networks, which run up to
    1.7 times as fast with it on a processor. Like the batch size it may change last bits.
    """

    def __init__(self, config: ExtractorConfig, network: Network, device: torch.device | str = "cpu") -> None:
        model = network.module
        if config.precision not in PRECISIONS:
            raise ExtractorError(f"precision={config.precision}: allowed are {', '.join(PRECISIONS)}")
        self.config = config
        self.name = config.name
        self.licence = config.licence or network.licence
        self.device = torch.device(device)
        self.memory_format = torch.channels_last if _is_convolutional(model) else torch.contiguous_format
        with foreign(f"{config.model} cannot be set up", "see whether the network runs by itself"):
            self.weights_sha256 = weights.digest(model)
            self.model = model.eval().requires_grad_(False).to(self.device)
            if self.memory_format == torch.channels_last:
                _to_channels_last(self.model)
        self.preprocess = _preprocess(config, network)
        self._channels_last = network.channels_last
        self._neurons_last: dict[str, bool] = {}
        """Of each layer, as its output for one image shows."""
        self._calls = threading.local()  # several threads may run batches at once, each for a sink of its own
        self._streams = Streams(self.device) if self.device.type == "cuda" else None
        named = dict(model.named_modules())
        before = [dict(vars(module)) for module in model.modules()]
        self.modules, self.left_out = self._chosen()
        self.tokens = tokens_of(self.modules, config.tokens, named, network.prefix_tokens, network.class_token)
        self._tokens_first: set[str] = set()
        """Layers whose outputs are (tokens, samples, neurons)."""
        self.layers: dict[str, int] = {}
        for layer, module in self.modules.items():
            named[module].register_forward_hook(partial(self._fire, layer))
        self.overwritten = frozenset(self.modules)
        """Layers whose output the network changes after they fired: in doubt all, until the dry run has told."""
        self._turn: threading.Lock | None = None
        self.layers, self.overwritten = self._dry_run()
        after = [vars(module) for module in model.modules()]
        if any(a.keys() != b.keys() or any(a[k] is not b[k] for k in a) for a, b in zip(before, after, strict=True)):
            self._turn = threading.Lock()  # it keeps something between its modules: one batch at a time
        self.architecture = self._architecture()
        if config.compile:
            self._compile(named)

    @property
    def precision(self) -> str:
        """The arithmetic, one of `PRECISIONS`."""
        return self.config.precision

    @property
    def published_ranges(self) -> str:
        """Path or URL of published activation ranges; empty if there are none."""
        return self.config.ranges

    @property
    def provenance(self) -> dict[str, Any]:
        """The memory format, and whether the layers are compiled: both may change last bits."""
        return {
            "memory_format": str(self.memory_format).removeprefix("torch."),
            "compile": self.config.compile,
        }

    def _fire(self, layer: str, module: nn.Module, inputs: object, output: object) -> None:
        sink: ActivationSink | None = getattr(self._calls, "sink", None)
        if sink is None:
            return
        if layer not in self._neurons_last:
            self._neurons_last[layer] = neurons_last(output, self._channels_last)
        activations = as_positions(layer, output, self._neurons_last[layer])
        if not self.layers and tokens_first(output):  # of the dry run's one image
            self._tokens_first.add(layer)
        if layer in self._tokens_first:
            activations = activations.transpose(0, 1)
        activations = picked(layer, activations, self.tokens[layer])
        if self._streams is None or layer in self.overwritten:
            sink(layer, activations)
        else:
            with self._streams.beside(activations):
                sink(layer, activations)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, sink: ActivationSink) -> None:
        """Run (samples, 3, size, size) float32 images; `sink(layer, (samples, positions, neurons))` as layers fire.

        What the sink gets is a view that the network may overwrite later: consume or copy it at once. On a GPU
        the sink is called with a stream of its own as the current one, and nothing waits for it before the last layer.
        Raises what the sink raises; what the network raises as `ExtractorError`, but for a full device.
        """
        sink_errors: list[BaseException] = []

        def sinking(layer: str, activations: torch.Tensor) -> None:
            try:
                sink(layer, activations)
            except Exception as error:
                sink_errors.append(error)
                raise

        try:
            with self._turn or nullcontext():
                self._run(images, sinking)
        except (ExtractorError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            if error in sink_errors or of_signal(error):
                raise
            raise ExtractorError(
                f"{self.config.model} fails on {len(images)} images at once ({type(error).__name__}: {line_of(error)}):"
                " try another batch_size, or see whether the network runs by itself on so many"
            ) from error

    def _run(self, images: torch.Tensor, sink: ActivationSink) -> None:
        images = self._streams.bring(images) if self._streams else images.to(self.device)
        self._calls.sink = sink
        try:
            with arithmetic(self.config.precision, self.device):
                self.model(images.contiguous(memory_format=self.memory_format))
        finally:
            self._calls.sink = None
            if self._streams:
                self._streams.join()

    def _chosen(self) -> tuple[dict[str, str], dict[str, LeftOut]]:
        """Layers and their modules, and what is left out of a choice that nobody made."""

        def run() -> None:
            with torch.no_grad():
                self._run(self._noise(), lambda layer, activations: None)

        with self._trial():
            return chosen(self.model, self.config.layers, run, f"{self.config.source}:{self.config.model}")

    def _dry_run(self) -> tuple[dict[str, int], frozenset[str]]:
        """Neurons of each layer in the order they fire, and which layers' outputs the network overwrites later.

        One image of noise, without inference mode, in which torch counts how often a tensor was written to: a change
        is noticed even where it left the values as they were. The copy is for kernels that do not count.
        """
        fired: list[tuple[str, torch.Tensor, torch.Tensor, int]] = []
        with torch.no_grad():
            with self._trial():
                self._run(self._noise(), lambda layer, a: fired.append((layer, a, a.clone(), a._version)))
            overwritten = [k for k, a, copy, version in fired if a._version != version or not torch.equal(a, copy)]
        for layer, a, *_ in fired:
            if len(a) != 1:
                raise LayerError(f"layer {layer!r} puts out {len(a)} parts of an image; choose a module around it")
        names = [layer for layer, *_ in fired]
        for layer, module in self.modules.items():
            if names.count(layer) != 1:
                raise LayerError(
                    f"layer {layer!r} ({module}) fires {names.count(layer)} times per image; once is needed: "
                    "name others with layers=[...]"
                )
        return {layer: a.shape[2] for layer, a, *_ in fired}, frozenset(overwritten)

    def _noise(self) -> torch.Tensor:
        """One image for dry runs."""
        size = self.preprocess.size
        return torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(0)).to(self.device)

    @contextmanager
    def _trial(self) -> Iterator[None]:
        """What a network raises when it is first run, which may be anything, as one line."""
        try:
            yield
        except (ExtractorError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit) as error:
            if of_signal(error):
                raise
            what, remedy = refused(self.model, self.preprocess.size, error)
            raise ExtractorError(f"{self.config.model} {what} ({line_of(error)}): {remedy}") from error

    def _compile(self, named: Mapping[str, nn.Module]) -> None:
        """Compile what is inside each layer's module; the hooks stay outside. A module with a layer inside stays as it
        is: its compiled form would swallow the hook."""
        layers = list(self.modules.values())
        # Blocks of one class share its code, and torch would compile that for the first eight shapes only.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(layers))
        for name in layers:
            if not any(other.startswith(f"{name}.") for other in layers):
                named[name].forward = torch.compile(named[name].forward)

    def _architecture(self) -> str:
        """The model's name and a hash of which of its modules the layers are, and which of their positions count."""
        layers = [(layer, self.modules[layer], *self.tokens[layer].says) for layer in self.layers]
        digest = hashlib.sha256(json.dumps([*layers, *self.config.without]).encode()).hexdigest()
        return f"{self.config.source}:{self.config.model}#{digest[:12]}"

    def state(self) -> weights.State:
        """The parameters and buffers, for building the same network elsewhere."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}


def check_device(config: ExtractorConfig, device: str) -> None:
    """Raise `ExtractorError` if what is asked for cannot be done on that kind of device ("cpu" or "cuda")."""
    if device == "cpu" and config.precision == "tf32":
        raise ExtractorError("precision=tf32 is CUDA's; on a processor use precision=fp32")
    if device == "cpu" and config.preprocess.get("resize") == "device":
        raise ExtractorError("extractor.preprocess.resize=device decodes on a GPU; on a processor use resize=clean")
    if device == "cpu" and config.compile:
        try:
            torch._inductor.cpp_builder.get_cpp_compiler()
        except Exception as error:  # torch's many kinds; none says what to do
            raise ExtractorError(
                f"compile=true needs a C++ compiler: install g++ or leave compile out ({error})"
            ) from error


def _to_channels_last(model: nn.Module) -> None:
    """Tensors of four dimensions; others have no such format, and torch refuses those of five (3-D convolutions)."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4 and tensor.layout == torch.strided:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def _is_convolutional(model: nn.Module) -> bool:
    """A vision transformer has one convolution, which cuts the image into patches."""
    return sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1


def _preprocess(config: ExtractorConfig, network: Network) -> Preprocess:
    own = {key: value for key, value in config.preprocess.items() if value is not None}
    allowed = [field.name for field in fields(Preprocess)]
    if unknown := own.keys() - set(allowed):
        raise ExtractorError(f"extractor.preprocess.{min(unknown)}: unknown key; allowed are {', '.join(allowed)}")
    values: dict[str, Any] = {"size": network.size, "mean": network.mean, "std": network.std} | own
    for key in ("size", "mean", "std"):
        if values[key] is None:
            raise ExtractorError(
                f"extractor.preprocess.{key}: {config.source} does not say it of {config.model}; give it, for instance "
                "'extractor.preprocess={size: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}'"
            )
    colours = {key: tuple(map(float, values[key])) for key in ("mean", "std")}  # 0 and 0.0 are one id
    return Preprocess(**{**values, **colours})
