"""Which modules of a network are its layers, and how their outputs become `(samples, positions, neurons)`.

choose(model, "default")                          # {"blocks.0": "blocks.0", ..., "norm": "norm"}
choose(model, ["blocks.*", "norm"])               # by name or pattern
choose(model, {"block_0": "blocks.0"})            # under names of one's own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

Layers = str | Sequence[str] | Mapping[str, str]
Sink = Callable[[str, torch.Tensor], None]


class ExtractorError(ValueError):
    """A network, its weights or its settings cannot be had as asked; the message says what to change."""


class LayerError(ExtractorError):
    """A layer that the network does not have, or whose output is no activation map."""


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
            raise LayerError(_unknown(unknown[0], modules))
        return dict(wanted)
    chosen: dict[str, str] = {}
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        found = [name for name in modules if _matches(name, pattern)]
        if not found:
            raise LayerError(_unknown(pattern, modules))
        chosen.update({name: name for name in found})
    return chosen


def default_layers(model: nn.Module) -> list[str]:
    """Every block of every stage, and the final norm of a transformer.

    Stages come from timm's `feature_info`; a stage's blocks are the children of its innermost
    sequence. What is no sequence (a stem) counts only in networks that have no sequences at all. A
    network without stages has to be told its layers.
    """
    info: Any = getattr(model, "feature_info", None)
    if not info:
        raise LayerError("this network has no list of stages: name its layers with layers=[...]")
    modules = dict(model.named_modules())
    stages: list[str] = []
    for entry in info:
        stage = entry["module"]
        parent = stage.rpartition(".")[0]
        # feature_info lists only the stages after which the resolution changes: take their siblings too.
        family = [f"{parent}.{child}" for child in _children(modules[parent])] if parent else []
        stages.extend(name for name in family or [stage] if name in modules and name not in stages)
    blocks = {stage: _blocks(stage, modules) for stage in stages}
    if any(blocks.values()):
        stages = [name for stage in stages for name in blocks[stage] or [stage] if "." in name]
    return stages + [name for name in ("norm", "fc_norm") if _has_parameters(modules.get(name))]


def _children(module: nn.Module) -> list[str]:
    """Names of a sequence's members; nothing for any other module."""
    return [name for name, _ in module.named_children()] if isinstance(module, nn.Sequential | nn.ModuleList) else []


def _blocks(stage: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """A stage's blocks: members of its `blocks`, or its own; a transformer's blocks are their own stages."""
    inner = f"{stage}.blocks"
    for parent in (inner, stage):
        if children := _children(modules[parent]) if parent in modules else []:
            return [f"{parent}.{child}" for child in children]
    return []


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in module.parameters())


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _unknown(name: str, modules: Sequence[str]) -> str:
    shown = [module for module in modules if module.count(".") <= name.count(".")][:40]
    return f"unknown layer {name!r}; the network has {', '.join(shown)}{', …' if len(shown) == 40 else ''}"


def as_positions(layer: str, output: object, channels_last: bool) -> torch.Tensor:
    """A layer's output as `(samples, positions, neurons)`, a view: pixels or tokens are positions.

    (samples, neurons, height, width), or (samples, height, width, neurons) where `channels_last`;
    (samples, tokens, neurons); (samples, neurons) as one position.
    """
    if isinstance(output, torch.Tensor) and output.is_floating_point():
        if output.ndim == 4:
            return output.flatten(1, 2) if channels_last else output.flatten(2).transpose(1, 2)
        if output.ndim == 3:
            return output
        if output.ndim == 2:
            return output.unsqueeze(1)
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    raise LayerError(f"layer {layer!r} puts out {shape}, not a batch of activations; choose a module inside it")
