"""Which modules of a network are its layers, and how their outputs become `(samples, positions, neurons)`.

choose(model, "default")                          # {"blocks.0": "blocks.0", ..., "norm": "norm"}
choose(model, ["blocks.*", "norm"])               # by name or pattern
choose(model, {"block_0": "blocks.0"})            # under names of one's own
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import nn

from extractors.download.files import line_of
from extractors.errors import ExtractorError, LayerError, NoSuchLayerError

Layers = str | Sequence[str] | Mapping[str, str]
Tokens = str | Mapping[str, str]
TOKENS = ("all", "cls", "patches", "mean")
HEADS = ("fc", "classifier", "head", "heads", "last_linear")
"""What libraries call a network's classifier."""
FUNCTIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.Tanh, nn.Sigmoid)
MANY = 4
"""Modules with insides that are blocks themselves where there are no sequences."""


@contextmanager
def foreign(what: str, remedy: str, kind: type[ExtractorError] = ExtractorError) -> Iterator[None]:
    """Whatever the code of a model library, or of one's own network, raises inside becomes a `kind` of one line.

    What is one already and a full device stay as they are. A script that is imported may also end the process.
    """
    try:
        yield
    except (ExtractorError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        if of_signal(error):
            raise
        raise kind(f"{what} ({type(error).__name__}: {line_of(error)}); {remedy}") from error


def of_signal(error: BaseException) -> bool:
    """Whether this process was told to end while it ran foreign code: a handler raises a kind of `SystemExit` of its
    own, or marks it, as Ray does. A script's is plain."""
    return isinstance(error, SystemExit) and (type(error) is not SystemExit or bool(vars(error)))


def choose(model: nn.Module, wanted: Layers) -> dict[str, str]:
    """`{layer name: module name}` for "default", a list of module names or patterns, or a mapping.

    In a pattern `*` stands for one part of a dotted name: `blocks.*` are the blocks, not their insides.
    """
    modules = [name for name, _ in model.named_modules() if name]
    if wanted == "default":
        wanted = default_layers(model)
    if isinstance(wanted, Mapping):
        unknown = [module for module in wanted.values() if module not in modules]
        if unknown:
            raise NoSuchLayerError(_unknown(unknown[0], modules))
        return dict(wanted)
    chosen: dict[str, str] = {}
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        matches = [name for name in modules if _matches(name, pattern)]
        if not matches:
            raise NoSuchLayerError(_unknown(pattern, modules))
        chosen.update({name: name for name in matches})
    return chosen


def default_layers(model: nn.Module) -> list[str]:
    """Every block of every stage, and the final norm of a transformer.

    timm says in `feature_info` which modules the stages are; elsewhere they are the first sequences below the root
    that are made of modules with insides. A stage's blocks are its members. What is no sequence (a stem) counts only in
    networks that have no sequences at all. A network in which nothing is found has to be told its layers.
    """
    modules = dict(model.named_modules())
    inside = [name for name in ("", "trunk") if name in modules and getattr(modules[name], "feature_info", None)]
    if inside:  # open_clip calls a network of timm its trunk
        path = f"{inside[0]}." if inside[0] else ""
        layer_names = [f"{path}{name}" for name in _of_timm(modules[inside[0]])]
    else:
        layer_names = _of_sequences(model)
    if not layer_names:
        raise LayerError(
            f"nothing in this network looks like blocks: name its layers with layers=[...]; it has {_some(modules)}"
        )
    return layer_names


def _of_timm(model: nn.Module) -> list[str]:
    info: Any = model.feature_info
    modules = dict(model.named_modules())
    stages: list[str] = []
    for entry in info if isinstance(info, Sequence) else [None]:
        stage = entry.get("module") if isinstance(entry, Mapping) else None
        if not isinstance(stage, str) or stage not in modules:  # a name for people, not of a module
            return _of_sequences(model)
        parent = stage.rpartition(".")[0]
        # feature_info lists only the stages after which the resolution changes: take their siblings too.
        family = [f"{parent}.{child}" for child in _members(modules[parent])] if parent else []
        if not any(any(True for _ in modules[name].children()) for name in family):
            family = [name for name in family if type(modules[name]) in FUNCTIONS]  # a VGG's
        stages.extend(name for name in family or [stage] if name in modules and name not in stages)
    blocks = {stage: _blocks(stage, modules) for stage in stages}
    if any(blocks.values()):
        first = next(i for i, stage in enumerate(stages) if blocks[stage])  # what comes before may be a stem
        per_stage = [blocks[stage] or [stage] * (i > first or "." in stage) for i, stage in enumerate(stages)]
        stages = [name for names in per_stage for name in names]
    return stages + [name for name in ("norm", "fc_norm") if _has_parameters(modules.get(name))]


def _of_sequences(module: nn.Module, path: str = "") -> list[str]:
    """Blocks by the form of the network alone.

    A sequence of modules with insides is a stage, or a row of stages; one of plain modules (a VGG's) is a row of
    activation functions with what comes between them. Where there is neither, but many modules with insides, those are
    the blocks (an Inception's); where there are few, the search goes on in them. A norm that follows the blocks, in the
    module that holds them or in one around it, is a layer too.
    """
    children = [(f"{path}{name}", child) for name, child in module.named_children() if name not in HEADS]
    stages = [(name, child) for name, child in children if _members(child) and _has_parameters(child)]
    names: list[str] = []
    for name, stage in stages:
        names += _in_stage(name, stage)
    composed = [(name, child) for name, child in children if any(True for _ in child.children())]
    if not names and len(composed) >= MANY:
        names = [name for name, _ in composed]
    for name, child in composed if not names else ():
        names += _of_sequences(child, f"{name}.")
    if names:
        last = max(i for i, (name, _) in enumerate(children) if any(f"{f}.".startswith(f"{name}.") for f in names))
        names += [name for name, child in children[last + 1 :] if isinstance(child, nn.LayerNorm)]
    return names


def _in_stage(path: str, stage: nn.Module) -> list[str]:
    members = [(f"{path}.{name}", member) for name, member in stage.named_children()]
    composed = [(name, member) for name, member in members if any(True for _ in member.children())]
    if not composed:
        functions = [name for name, member in members if type(member) in FUNCTIONS]
        return functions if len(functions) > 1 else [path]
    blocks: list[str] = []
    for name, member in composed:
        inner = any(any(True for _ in part.children()) for part in member.children())
        blocks += _in_stage(name, member) if inner and _members(member) else [name]
    return blocks


def _members(module: nn.Module) -> list[str]:
    """Names of a sequence's members; nothing for any other module."""
    return [name for name, _ in module.named_children()] if isinstance(module, nn.Sequential | nn.ModuleList) else []


def _blocks(stage: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """A stage's blocks: members of its `blocks`, or its own; a transformer's blocks are their own stages."""
    inner = f"{stage}.blocks"
    for parent in (inner, stage):
        if children := _members(modules[parent]) if parent in modules else []:
            return [f"{parent}.{child}" for child in children]
    return []


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in module.parameters())


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _unknown(name: str, modules: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, modules, 3)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"unknown layer {name!r}{hint}; the network has {_some(modules, name.count('.'))}"


def _some(modules: Iterable[str], depth: int = 1) -> str:
    shown = [module for module in modules if module and module.count(".") <= depth][:40]
    return f"{', '.join(shown)}{', …' if len(shown) == 40 else ''}"


def neurons_last(output: object, doubtful: bool) -> bool:
    """Whether a 4-D output for one (square) image ends in its neurons: then the two before are the equal ones.
    `doubtful` is what the network says of itself, for where all three are equal or none are."""
    shape = output.shape if isinstance(output, torch.Tensor) and output.ndim == 4 else ()
    if shape and (shape[1] == shape[2]) != (shape[2] == shape[3]):
        return bool(shape[1] == shape[2])
    return doubtful


def as_positions(layer: str, output: object, channels_last: bool) -> torch.Tensor:
    """A layer's output as `(samples, positions, neurons)`, a view: pixels or tokens are positions.

    (samples, neurons, height, width), or (samples, height, width, neurons) where `channels_last`;
    (samples, tokens, neurons); (samples, neurons) as one position. Of a tuple, its first tensor.
    """
    output = first_of(output)
    if isinstance(output, torch.Tensor) and output.is_floating_point() and output.numel():
        if output.ndim == 4:
            return output.flatten(1, 2) if channels_last else output.flatten(2).transpose(1, 2)
        if output.ndim == 3:
            return output
        if output.ndim == 2:
            return output.unsqueeze(1)
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    raise LayerError(f"layer {layer!r} puts out {shape}, not a batch of activations; choose a module inside it")


def first_of(output: object) -> object:
    """What counts of a module's output: of a tuple or a list, the first."""
    return output[0] if isinstance(output, tuple | list) and output else output


def tokens_first(output: object) -> bool:
    """Whether a module's output for one image is (tokens, samples, neurons)."""
    output = first_of(output)
    return isinstance(output, torch.Tensor) and output.ndim == 3 and output.shape[1] == 1 < len(output)


class Picked(NamedTuple):
    """Which positions of a layer count: a word of `TOKENS`, and how many tokens stand before the patches."""

    word: str
    prefix: int

    @property
    def says(self) -> tuple[str, ...]:
        """For a name of the layer; empty where every position counts."""
        return () if self.word == "all" else (f"{self.word} {self.prefix}",)


def tokens_of(
    layers: Mapping[str, str], wanted: Tokens, modules: Iterable[str], prefix_tokens: int | None, class_token: bool
) -> dict[str, Picked]:
    """Which positions of each layer count, from one word for all of them or one for some, by name, module or pattern.
    Words for modules that are no layers are ignored.

    "all"; "cls", a transformer's class token; "patches", without class and register tokens; "mean" over positions.
    """
    words = dict.fromkeys(layers, "all")
    for pattern, word in {"*": wanted}.items() if isinstance(wanted, str) else wanted.items():
        matches = [layer for layer, m in layers.items() if fnmatchcase(layer, pattern) or fnmatchcase(m, pattern)]
        if not matches and pattern not in modules:
            raise NoSuchLayerError(f"extractor.tokens: no layer {pattern}; there are {', '.join(list(layers)[:40])}")
        words.update(dict.fromkeys(matches, word))
    if unknown := set(words.values()) - set(TOKENS):
        raise LayerError(f"extractor.tokens={min(unknown)}: allowed are {', '.join(TOKENS)}")
    if "patches" in words.values() and prefix_tokens is None:
        raise LayerError("extractor.tokens=patches: this network does not say which tokens are patches; use all")
    if "cls" in words.values() and not (class_token and prefix_tokens):
        raise LayerError("extractor.tokens=cls: this network has no class token; use all, patches or mean")
    return {layer: Picked(word, prefix_tokens or 0) for layer, word in words.items()}


def picked(layer: str, activations: torch.Tensor, which: Picked) -> torch.Tensor:
    """The positions of (samples, positions, neurons) that count."""
    if which.word == "all":
        return activations
    if which.word == "mean":
        return activations.mean(1, keepdim=True)
    patches = activations.shape[1] - which.prefix
    if activations.shape[1] < 2:
        raise LayerError(f"layer {layer!r} has one position and no tokens to choose from: extractor.tokens=all")
    if which.prefix and (patches < 0 or math.isqrt(patches) ** 2 != patches):
        raise LayerError(
            f"layer {layer!r} has {activations.shape[1]} positions, no square beside {which.prefix} token(s): its "
            "class token may join later; use extractor.tokens=all for it"
        )
    return activations[:, :1] if which.word == "cls" else activations[:, which.prefix :]
