"""A network's weights: read from a checkpoint, fitted to the network, and the proof of which ones were loaded.

Three sources, always said explicitly: `pretrained` (the published file that the extractor's
configuration names), a path or URL, or `random` with a seed. Whatever cannot be had is an error
that says what to do; there is no falling back to an untrained network.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from extractors.download import files
from extractors.errors import WeightsError

State = dict[str, torch.Tensor]

NESTED = ("state_dict", "model_state_dict", "model", "teacher", "state_dict_ema", "model_ema")
"""Where in a training's checkpoint the network's tensors are."""
WRAPPERS = ("module.", "_orig_mod.")
"""What parallel training and compilation put before every name."""
REMEDY = "Save the network's state_dict with safetensors.torch.save_file or torch.save, and give that file"


def fetch(source: str, sha256: str = "") -> Path:
    """The file at `source` on this machine (`files.fetch`); `WeightsError` says what to do without it."""
    try:
        return files.fetch(source, sha256)
    except OSError as error:
        raise WeightsError(
            f"cannot get the weights from {source} ({error}). Fetch that file where there is a network and give "
            "its path with extractor.weights=PATH, or ask for an untrained network with extractor.weights=random"
        ) from error


def read(path: Path, trusted: bool = False) -> State:
    """Tensors of a checkpoint: safetensors, or a torch file read with `weights_only`.

    A TorchScript archive (OpenAI's CLIP) is a program; it is opened only if `trusted`: its SHA-256 is the published
    one.
    """
    try:
        if _is_program(path):
            if not trusted:
                raise ValueError(
                    "it is a TorchScript program; save its state_dict as safetensors, or vouch for it with "
                    "extractor.pretrained=PATH extractor.sha256=ALL_64_DIGITS"
                )
            program = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            return dict(program.state_dict())
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":
            return dict(safetensors.torch.load_file(path))
        return _tensors(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a readable checkpoint: it holds more than tensors, or is no torch file at all. {REMEDY}"
        ) from error
    except Exception as error:  # many kinds; every one means that this file is no checkpoint
        reason = files.line_of(error).rstrip(".")
        raise WeightsError(f"{path} is not a readable checkpoint: {reason}. {REMEDY}") from error


def _is_program(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _tensors(content: Any) -> State:
    for _ in NESTED:
        nested = next(
            (content[k] for k in NESTED if isinstance(content, dict) and isinstance(content.get(k), dict)), None
        )
        content = content if nested is None else nested
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not tensors by name")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"it holds {', '.join(map(str, list(content)[:8])) or 'nothing'}, and no tensors")
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in tensors)), ""):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def under(state: Mapping[str, torch.Tensor], prefix: str, source: str) -> State:
    """The tensors whose names begin with `prefix`, without it."""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not tensors:
        raise WeightsError(f"{source} has no tensors under {prefix}; there is {next(iter(state), 'nothing')}")
    return tensors


def without(state: Mapping[str, torch.Tensor], patterns: Sequence[str]) -> State:
    """The tensors but those whose names fit one of the patterns."""
    return {name: tensor for name, tensor in state.items() if not any(fnmatchcase(name, p) for p in patterns)}


def fit(
    module: nn.Module, state: Mapping[str, torch.Tensor], by_order: bool, classifiers: Sequence[str], source: str
) -> None:
    """Load a checkpoint; every tensor must find its place, only the classifiers may be absent or others.

    `by_order` pairs tensors by their place in the file instead of by name, for files of another
    implementation of the same network: numbers and shapes of all tensors must agree.
    """
    own = module.state_dict()
    if by_order:
        if [tuple(t.shape) for t in state.values()] != [tuple(t.shape) for t in own.values()]:
            raise WeightsError(
                f"{source} holds another network: the shapes differ from {type(module).__name__}'s; give its own"
            )
        state = dict(zip(own, state.values(), strict=True))
    heads = tuple(f"{classifier}." for classifier in classifiers)
    usable = {k: v for k, v in state.items() if not k.startswith(heads) or (k in own and own[k].shape == v.shape)}
    # A counter of training batches, which older files lack and no inference reads.
    missing = [k for k in own if k not in usable and not k.startswith(heads) and not k.endswith("num_batches_tracked")]
    unexpected = [name for name in usable if name not in own]
    misshapen = [name for name in usable if name in own and own[name].shape != usable[name].shape]
    for fault, names in (("lacks", missing), ("has unknown", unexpected), ("has another shape of", misshapen)):
        if names:
            raise WeightsError(
                f"{source} does not fit {type(module).__name__}: it {fault} {len(names)} tensor(s), "
                f"for instance {names[0]}. Give this model's file, or extractor.prefix=, extractor.ignore= for a part"
            )
    if any(name.startswith(heads) and name not in usable for name in own):
        remove(module, classifiers)
        usable = {name: tensor for name, tensor in usable.items() if not name.startswith(heads)}
    module.load_state_dict(usable, strict=False)


def remove(module: nn.Module, names: Sequence[str]) -> None:
    """Let what comes to these modules pass unchanged: classifiers, on which no layer depends."""
    for name in names:
        module.set_submodule(name, nn.Identity(), strict=True)


def digest(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer by name, type, shape and bytes: what is really loaded."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        sha.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        sha.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
