"""Configure extractors by name: those of conf/extractor, and any model of the supported libraries.

    named_extractor("dino_vit_base")
    named_extractor("torchvision:resnet50", weights="random", layers=["layer4.*"])
    named_extractor("vit_tiny_patch16_224")   # a timm model

Every key of the configuration is checked before anything is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import timm
from omegaconf import OmegaConf

from extractors import ExtractorConfig
from extractors.arithmetic import PRECISIONS
from extractors.layers import TOKENS
from extractors.sources import SOURCES
from pipeline.config.checks import one_of, switch, text
from pipeline.errors import UserError
from pipeline.formats.manifests import NAME

CONF = Path(__file__).resolve().parents[2] / "conf"
LISTS = ("ignore", "without")
TEXTS = ("model", "weights", "pretrained", "sha256", "prefix", "ranges", "licence")


def known_extractors() -> list[str]:
    """Names of the extractors in conf/extractor."""
    return sorted(path.stem for path in (CONF / "extractor").glob("*.yaml") if path.stem not in SOURCES)


def named_extractor(name: str, /, precision: str = "fp32", **options: Any) -> ExtractorConfig:
    """The configuration of an extractor.

    `name` is a name of conf/extractor, `SOURCE:MODEL`, or a timm model. `options` replace keys of the configuration.
    Raises `UserError` if there is no such extractor or a key is wrong.
    """
    if not isinstance(name, str):
        raise UserError(f"extractor={name!r}: give a name")
    content = OmegaConf.load(CONF / "config.yaml").extractor
    source, _, model = name.partition(":")
    if name in known_extractors():
        content = OmegaConf.merge(content, OmegaConf.load(CONF / "extractor" / f"{name}.yaml"))
    elif source in SOURCES and model:
        options = {"source": source, "model": model, **options}
    elif timm.is_model(name):
        options = {"model": name, **options}
    else:
        raise UserError(
            f"extractor={name}: neither one of {', '.join(known_extractors())}, nor a timm model, nor SOURCE:MODEL "
            f"(sources: {', '.join(SOURCES)})"
        )
    plain: Any = OmegaConf.to_container(content, resolve=True)
    if isinstance(options.get("preprocess"), Mapping):
        options["preprocess"] = {**plain["preprocess"], **options["preprocess"]}
    layers = options.pop("layers", None)
    return extractor_config({**plain, **options}, layers, precision)


def extractor_config(
    e: Mapping[str, Any], layers: Any = None, precision: str = "fp32", compile: bool = False
) -> ExtractorConfig:
    """Check every key. `layers`, unless None, replace `e["layers"]`. Raises `UserError` for the first wrong value."""
    allowed = [f.name for f in fields(ExtractorConfig) if f.name not in ("precision", "compile")]
    if unknown := sorted(set(e) - set(allowed)):
        raise UserError(f"extractor.{unknown[0]}: unknown key; allowed are {', '.join(allowed)}")
    one_of("precision", precision, PRECISIONS)
    one_of("extractor.source", e["source"], tuple(SOURCES))
    one_of("extractor.match", e["match"], ("name", "order"))
    if e.get("model") in (None, "", "???"):
        raise UserError("extractor.model is not set; give one, for instance extractor.model=vit_tiny_patch16_224")
    name = str(e["name"]) if e["name"] is not None else re.sub(r"[^\w.-]+", "_", str(e["model"])).strip("_")
    if not NAME.fullmatch(name):
        raise UserError(f"extractor.name={name}: use letters, digits, '.', '_' and '-', it names a folder")
    if type(e["seed"]) is not int or not 0 <= e["seed"] < 2**63:
        raise UserError(f"extractor.seed={e['seed']}: must be a whole number, not negative")
    if not re.fullmatch(r"|[0-9a-f]{8,64}", str(e["sha256"])):
        raise UserError(f"extractor.sha256={e['sha256']}: give its hexadecimal digits, at least the first 8")
    for key in LISTS:
        if not isinstance(e[key], list | tuple) or not all(isinstance(value, str) for value in e[key]):
            raise UserError(f"extractor.{key}={e[key]}: give a list of names, for instance extractor.{key}=[head]")
    return ExtractorConfig(
        **{
            **e,
            **{key: text(f"extractor.{key}", e[key]) for key in TEXTS},
            **{key: tuple(e[key]) for key in LISTS},
            "name": name,
            "layers": _layers(e["layers"] if layers is None else layers, e["layers"]),
            "tokens": _tokens(e["tokens"]),
            "preprocess": _preprocess(e["preprocess"]),
            "precision": precision,
            "compile": switch("compile", compile),
        }
    )


def _layers(layers: Any, own: Any) -> Any:
    """The layers to measure. `own` are the extractor's layers, from which `layers` may select by name."""
    layers = list(layers) if isinstance(layers, tuple) else layers
    parts = (
        [*layers, *layers.values()] if isinstance(layers, dict) else layers if isinstance(layers, list) else [layers]
    )
    if not parts or not all(isinstance(part, str) for part in parts):
        raise UserError(f"layers={layers}: give default, all, names or patterns [blocks.*,norm], or {{name: module}}")
    if isinstance(own, dict) and isinstance(layers, list):
        chosen = {name: own[name] for name in own if any(fnmatchcase(name, part) for part in layers)}
        if all(any(fnmatchcase(name, part) for name in chosen) for part in layers):
            return chosen
    return layers


def _tokens(tokens: Any) -> Any:
    words = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
    for word in words:
        one_of("extractor.tokens", word, TOKENS)
    return tokens


def _preprocess(p: Any) -> dict[str, Any]:
    if not isinstance(p, dict):
        raise UserError(f"extractor.preprocess={p}: give keys, for instance extractor.preprocess.size=224")
    if p.get("size") is not None and (not isinstance(p["size"], int) or p["size"] < 1):
        raise UserError(f"extractor.preprocess.size={p['size']}: must be a whole number of pixels")
    for key in ("mean", "std"):
        values = p.get(key)
        if values is None:
            continue
        if (
            not isinstance(values, list | tuple)
            or len(values) != 3
            or not all(type(v) in (int, float) and math.isfinite(v) for v in values)
        ):
            raise UserError(f"extractor.preprocess.{key}={values}: give three numbers, for red, green and blue")
        if key == "std" and not all(values):
            raise UserError("extractor.preprocess.std: must not be 0")
    return p
