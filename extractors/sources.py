"""Where networks come from: timm, torchvision, open_clip, torch.hub, or a function of one's own.

    network = create("torchvision", "vgg16")
    network.module                            # untrained, its parameters drawn from the seed
    network.size, network.mean, network.std   # the input that its publisher trained it for; None: not said

A library is imported when one of its networks is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from extractors.download.files import environment_proxies
from extractors.errors import ExtractorError
from extractors.layers import HEADS, foreign

SOURCES = ("timm", "torchvision", "open_clip", "hub", "python")
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


@dataclass(frozen=True)
class Network:
    """An untrained network, and what its publisher says of it.

    `published` are the places of its checkpoints by tag; the first is the one without a tag. `adapt` makes a
    checkpoint's names those of the module. `prefix_tokens` stand before the patches of a transformer, the class
    token first if `class_token`; None: not known. `channels_last` says how 4-D outputs are laid out.
    """

    module: nn.Module
    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    published: Mapping[str, str] = field(default_factory=dict)
    classifiers: tuple[str, ...] = ()
    adapt: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]] = dict
    prefix_tokens: int | None = None
    class_token: bool = True
    channels_last: bool = False
    licence: str = ""


def create(source: str, model: str, size: int | None = None, tag: str = "", trained: bool = False) -> Network:
    """The network of that name, for images of `size` pixels where that is part of it (timm's transformers), normalised
    as for the checkpoint `tag`. `trained` is for torch.hub alone, whose repositories load their own weights.

    Raises `ExtractorError` if there is none, naming the nearest.
    """
    if source not in SOURCES:
        raise ExtractorError(f"extractor.source={source}: allowed are {', '.join(SOURCES)}")
    with foreign(f"extractor.model={model}: {source} cannot make it", _remedy(size)):
        if source == "hub":
            return _hub(model, trained)
        if source == "timm":
            return _timm(model, size)
        if source == "python":
            return _python(model)
        return (_torchvision if source == "torchvision" else _open_clip)(model, tag)


def _remedy(size: int | None) -> str:
    sized = f"extractor.preprocess.size={size} may not suit it, " if size else ""
    return f"{sized}another version of the library may; or choose another model"


def names(source: str) -> list[str]:
    """The models of a library, those of torch.hub and of one's own code excepted."""
    with foreign(f"{source} cannot be imported", "install a version of it that fits this torch"):
        if source == "timm":
            import timm

            return list(timm.list_models())
        if source == "torchvision":
            import torchvision

            return list(torchvision.models.list_models(module=torchvision.models))
        return list(_library().list_models()) if source == "open_clip" else []


def _timm(model: str, size: int | None = None) -> Network:
    import timm
    from timm.models import model_entrypoint

    if not timm.is_model(model):
        raise ExtractorError(_unknown("timm", model, timm.list_models()))
    try:
        entry: Any = timm.get_pretrained_cfg(model)
    except RuntimeError:
        tags = timm.list_pretrained(f"{model.partition('.')[0]}.*")
        raise ExtractorError(
            f"extractor.model={model}: no such tag; there are {', '.join(tags[:12]) or 'none'}"
        ) from None
    fixed = bool(size and entry and entry.fixed_input_size and size != entry.input_size[-1])
    options: dict[str, Any] = {"img_size": size} if fixed else {}
    module = timm.create_model(model, pretrained=False, **options)
    config: Any = module.pretrained_cfg
    heads: str | Sequence[str] = config.get("classifier") or ()
    repository = config.get("hf_hub_id")
    file = config.get("hf_hub_filename") or "model.safetensors"
    file = f"hf:{repository}/{file}" if repository else config.get("url") or ""
    filtered = getattr(importlib.import_module(model_entrypoint(model).__module__), "checkpoint_filter_fn", None)
    return Network(
        module,
        config["input_size"][-1],
        config["mean"],
        config["std"],
        {"": file} if file else {},
        (heads,) if isinstance(heads, str) else tuple(heads),
        (lambda state: filtered(state, module)) if filtered else dict,
        getattr(module, "num_prefix_tokens", None),
        bool(getattr(module, "has_class_token", True)),
        getattr(module, "output_fmt", "NCHW") == "NHWC",
        config.get("license") or "",
    )


def _torchvision(model: str, tag: str) -> Network:
    """A classifier, for images of the size and the normalisation of one of its checkpoints."""
    from torchvision import models

    if model not in models.list_models(module=models):
        raise ExtractorError(_unknown("torchvision", model, models.list_models(module=models)))
    options: dict[str, Any] = {}
    if model in ("inception_v3", "googlenet"):
        # Their trained forms turn ImageNet's normalisation into their own; `init_weights` takes a minute.
        options = {"transform_input": True, "init_weights": False, "aux_logits": False}
    checkpoints = models.get_model_weights(model)
    best = checkpoints.DEFAULT
    transforms = checkpoints.__members__.get(tag, best).transforms()
    if model.startswith("vit_"):
        options = {"image_size": transforms.crop_size[0]}
    module = models.get_model(model, weights=None, **options)
    return Network(
        module,
        transforms.crop_size[0],
        tuple(transforms.mean),
        tuple(transforms.std),
        {"": best.url} | {entry.name: entry.url for entry in checkpoints},
        tuple(name for name in HEADS if hasattr(module, name)),
        adapt=_of_today,
        prefix_tokens=1 if isinstance(module, models.VisionTransformer) else None,
        channels_last=isinstance(module, models.SwinTransformer),
    )


def _of_today(state: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """torchvision's published files with the names that its networks have today, without auxiliary classifiers."""
    renamed = {}
    for name, tensor in state.items():
        name = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", name)
        name = name.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3.")
        if not name.startswith(("aux1.", "aux2.", "AuxLogits.")):
            renamed[name] = tensor
    return renamed


def _open_clip(model: str, tag: str) -> Network:
    """The image half of a CLIP, normalised as one of its checkpoints was. The text half, which may need a library of
    its own, is not made: open_clip has no public way to that, so this is its own builder of the half."""
    library = _library()
    if model not in library.list_models():
        raise ExtractorError(_unknown("open_clip", model, library.list_models()))
    config = library.get_model_config(model)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    builder = importlib.import_module("open_clip.model")
    module = builder._build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    size = vision.get("image_size", 224)
    tags = library.list_pretrained_tags_by_model(model)
    configs = {name: library.get_pretrained_cfg(model, name) for name in tags}
    published = {name: _clip_file(of) for name, of in configs.items()}
    first = next(iter(published.values()), "")
    chosen: Mapping[str, Any] = configs.get(tag or next(iter(configs), ""), {})
    transformer, trunk = hasattr(module, "class_embedding"), getattr(module, "trunk", None)  # a trunk is timm's
    return Network(
        module,
        size if isinstance(size, int) else size[0],
        tuple(chosen.get("mean") or CLIP["mean"]),
        tuple(chosen.get("std") or CLIP["std"]),
        {"": first} | published if first else {},
        adapt=_image_half,
        prefix_tokens=1 if transformer else getattr(trunk, "num_prefix_tokens", None),
        class_token=transformer or bool(getattr(trunk, "has_class_token", False)),
        channels_last=getattr(trunk, "output_fmt", "NCHW") == "NHWC",
    )


def _clip_file(config: Mapping[str, Any]) -> str:
    repository = (config.get("hf_hub") or "").strip("/")
    if not repository:
        return config.get("url") or ""
    whole = repository.count("/") > 1  # with the file's name
    return f"hf:{repository}" if whole else f"hf:{repository}/open_clip_model.safetensors"


def _image_half(state: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """A whole CLIP's tensors without its text half; those of a checkpoint of the image half alone stay."""
    visual = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    return visual or state


def _hub(model: str, trained: bool) -> Network:
    """`OWNER/REPOSITORY[:REF]/ENTRY`, or a folder with a hubconf.py and an entry in it. Runs that repository's code."""
    repository, _, entry = model.rpartition("/")
    if not repository:
        raise ExtractorError(f"extractor.model={model}: give OWNER/REPOSITORY/ENTRY, or FOLDER/ENTRY with a hubconf.py")
    repository = str(Path(repository).expanduser())
    local = (Path(repository) / "hubconf.py").is_file()
    if not local and not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", repository):
        raise ExtractorError(f"extractor.model={model}: there is no {repository}/hubconf.py")
    where: dict[str, Any] = {"source": "local" if local else "github", "trust_repo": True, "verbose": False}
    remedy = "a folder that holds it needs no network"
    with foreign(f"extractor.model={model}: torch.hub cannot load it", remedy), environment_proxies():
        # An entry need not know the word when its own weights are not wanted.
        module = torch.hub.load(repository, entry, **where, **({"pretrained": True} if trained else {}))  # type: ignore[no-untyped-call]
    return _own(module, model)


def _python(model: str) -> Network:
    """`package.module.function`, which is called without arguments and returns a network."""
    module, _, function = model.rpartition(".")
    remedy = "give MODULE.FUNCTION, importable from this folder, that takes no argument and returns a torch module"
    with foreign(f"extractor.model={model}: cannot be called", remedy):
        made = getattr(importlib.import_module(module), function)()
    return _own(made, model)


def _own(module: Any, model: str) -> Network:
    """A network that says of itself what it wants to be known."""
    if not isinstance(module, nn.Module):
        raise ExtractorError(f"extractor.model={model}: returns {type(module).__name__}, not a torch module")
    return Network(
        module,
        prefix_tokens=getattr(module, "num_prefix_tokens", None),
        class_token=bool(getattr(module, "has_class_token", True)),
        channels_last=getattr(module, "output_fmt", "NCHW") == "NHWC",
    )


def _library() -> Any:
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise ExtractorError(f"extractor.source=open_clip: {error}; pip install open-clip-torch") from error


def _unknown(source: str, model: str, models: Sequence[str]) -> str:
    stem = model.lower().split("_")[0].split("-")[0]
    close = difflib.get_close_matches(model, models, 6, 0.5) or [name for name in models if stem in name.lower()][:6]
    return (
        f"extractor.model={model}: {source} has no such model"
        + (f"; similar: {', '.join(close)}" if close else "")
        + f"; python -m pipeline.extractors list {source}"
    )
