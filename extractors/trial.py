"""What the modules of a network put out for one image, before any of them is believed to be a layer.

chosen(model, "default", run, "timm:resnet18")    # layers and their modules; `run` runs the network on one image
every(model, run)                                 # all that can be measured
measurable(model, ["blocks.0", "norm"], run)      # of these, and why the others are left out
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from extractors.errors import LayerError
from extractors.layers import Layers, choose, first_of, tokens_first

Run = Callable[[], None]


class LeftOut(NamedTuple):
    """A module that cannot be measured: why, and which modules inside it count in its place."""

    reason: str
    instead: tuple[str, ...]


def chosen(model: nn.Module, wanted: Layers, run: Run, whose: str) -> tuple[dict[str, str], dict[str, LeftOut]]:
    """`{layer name: module name}`, and what is left out of a choice that nobody made; what was named is not tried.

    Raises `LayerError` if nothing is left.
    """
    if wanted == "all":
        if names := every(model, run):
            return choose(model, names), {}
        _, left_out = measurable(model, [name for name, _ in model.named_children()], run)
        raise LayerError(
            f"{whose}: layers=all: none of its modules can be measured: {describe_left_out(left_out) or 'it has none'}"
        )
    modules = choose(model, wanted)
    if wanted != "default":
        return modules, {}
    usable, left_out = measurable(model, list(modules), run)
    if not usable:
        raise LayerError(
            f"{whose}: none of the modules that look like its layers can be measured: "
            f"{describe_left_out(left_out)}; name others with layers=[...]: "
            f"python -m pipeline.extractors show {whose} --all"
        )
    return {name: name for name in usable}, left_out


def every(model: nn.Module, run: Run) -> list[str]:
    """Every module that fires once for an image and puts out activations of its own, not those of one inside it."""
    faults: dict[str, list[str]] = {}
    fired: dict[str, tuple[int, int]] = {}
    kept: list[object] = []  # so that no output gets the identity of one that is gone

    def see(name: str, output: object) -> None:
        kept.append(output)
        faults.setdefault(name, []).append(fault_of(output))
        fired[name] = (id(output), output._version if isinstance(output, torch.Tensor) else 0)

    _watch(model, run, see)
    once = {name: call for name, call in fired.items() if faults[name] == [""]}
    first = {call: name for name, call in reversed(once.items())}
    return [name for name, call in once.items() if first[call] == name]


def measurable(model: nn.Module, wanted: Sequence[str], run: Run) -> tuple[list[str], dict[str, LeftOut]]:
    """Of these modules those that fire once for an image and put out activations of a whole one; and the others.

    In the place of a list of modules, which never fires itself, count those of its members that can be measured; in
    that of any other module the last one inside it that can.
    """
    modules = dict(model.named_modules())
    faults: dict[str, list[str]] = {}  # by module, in the order in which they are done

    def see(name: str, output: object) -> None:
        faults.setdefault(name, []).append(fault_of(output))

    def settled(name: str) -> list[str]:
        if faults.get(name) == [""]:
            return [name]
        children = [f"{name}.{child}" for child, _ in modules[name].named_children()]
        inside = [inner for child in children if child in modules for inner in settled(child)]
        listed = isinstance(modules[name], nn.ModuleList | nn.ModuleDict)
        return inside if listed else sorted(inside, key=list(faults).index)[-1:]

    def reason(name: str) -> str:
        calls = faults.get(name, [])
        return calls[0] if len(calls) == 1 else f"fires {len(calls)} times per image"

    _watch(model, run, see)
    counting = {name: settled(name) for name in wanted}
    left_out = {name: LeftOut(reason(name), tuple(names)) for name, names in counting.items() if names != [name]}
    return list(dict.fromkeys(name for names in counting.values() for name in names)), left_out


def describe_left_out(left_out: Mapping[str, LeftOut]) -> str:
    """One line of text: each reason with its modules, and the modules that are measured instead."""
    reasons = {
        each.reason: [n for n, other in left_out.items() if other.reason == each.reason] for each in left_out.values()
    }
    instead = ", ".join(name for each in left_out.values() for name in each.instead)
    text = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    return f"{text}; instead {instead}" if instead else text


def refused(model: nn.Module, size: int, error: BaseException) -> tuple[str, str]:
    """What a network that fails on its first image cannot take, as far as it tells, and what to do."""
    if isinstance(error, SystemExit):
        return "ends the program when it is run on an image", "see whether the network runs by itself"
    kinds = [p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32]
    if kinds and "type" in str(error):
        kind = str(kinds[0]).removeprefix("torch.")
        return (
            f"has parameters of {kind}",
            "return it as float32 (network.float()), with precision=bf16 or fp16",
        )
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != 3 and "channels" in str(error):
        channels = f"takes images of {first.in_channels} channel(s), and pictures have 3"
        return channels, "return a network that makes of three channels what its first layer takes"
    return (
        f"does not take images of {size} pixels",
        "choose another extractor.preprocess.size, or see whether the network runs by itself",
    )


def fault_of(output: object) -> str:
    """Why what a module puts out for one image are no activations of a layer; empty if they are."""
    output = first_of(output)
    if not isinstance(output, torch.Tensor):
        return f"puts out {type(output).__name__}"
    if not output.is_floating_point() or output.ndim not in (2, 3, 4) or not output.numel():
        return f"puts out {str(output.dtype).removeprefix('torch.')}{tuple(output.shape)}"
    return "" if len(output) == 1 or tokens_first(output) else f"puts out {len(output)} parts of an image"


def _watch(model: nn.Module, run: Run, see: Callable[[str, object], None]) -> None:
    """Run the network once; `see` gets the name of every module that fires, and what it puts out."""

    def fire(name: str, module: nn.Module, inputs: object, output: object) -> None:
        see(name, output)

    hooks = [module.register_forward_hook(partial(fire, name)) for name, module in model.named_modules() if name]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
