"""An extractor from its configuration: its network is made, cut to what is wanted, and given its weights.

extractor = build(ExtractorConfig(name="vgg16", model="vgg16", source="torchvision", without=("classifier",)))
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from extractors import sources, weights
from extractors.download.files import forget, stated
from extractors.errors import ExtractorError, WeightsError
from extractors.layers import foreign
from extractors.network import ExtractorConfig, FrozenNetwork
from extractors.sources import Network
from extractors.trial import describe_left_out

log = logging.getLogger(__name__)


def build(
    config: ExtractorConfig, device: torch.device | str = "cpu", state: Mapping[str, torch.Tensor] | None = None
) -> FrozenNetwork:
    """Make the network and load its weights: from the configured source, or `state` from another process.

    Raises `WeightsError`, `LayerError` or `ExtractorError`, each saying what to change.
    """
    published = config.weights == "pretrained" and config.pretrained == "published"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        size = config.preprocess.get("size")
        tag = config.pretrained.partition(":")[2] if config.pretrained.startswith("published:") else ""
        network = sources.create(config.source, config.model, size, tag, trained=published and state is None)
    module = network.module
    try:
        weights.remove(module, config.without)
    except (AttributeError, ValueError) as error:
        raise ExtractorError(f"extractor.without={list(config.without)}: {error}") from error
    if state is not None:
        with foreign(f"{config.model} does not take the parameters it was given", "have one version on all machines"):
            if set(state) != set(module.state_dict()):
                weights.remove(module, network.classifiers)
            module.load_state_dict(dict(state))
    elif config.weights != "random" and not (published and config.source == "hub"):
        _load(config, network)
    extractor = FrozenNetwork(config, network, device)
    if extractor.left_out and state is None:  # else another process has said it
        log.warning(
            "%s: default layers that cannot be measured: %s", config.model, describe_left_out(extractor.left_out)
        )
    return extractor


def _load(config: ExtractorConfig, network: Network) -> None:
    pretrained = config.weights == "pretrained"
    source = config.pretrained if pretrained else config.weights
    if pretrained and source.partition(":")[0] == "published":
        tag = source.partition(":")[2]
        if tag not in network.published:
            tags = ", ".join(filter(None, network.published))
            raise WeightsError(
                f"{config.source} publishes no weights{f' {tag}' if tag else ''} for {config.model}"
                + (f"; there are {tags}" if tags else "")
                + "; give extractor.weights=PATH or extractor.weights=random"
            )
        source = network.published[tag]
    sha256 = config.sha256 or (stated(source) if pretrained else "")
    path = weights.fetch(source, sha256)
    try:
        state = weights.read(path, trusted=len(sha256) == 64)
    except WeightsError as error:
        forget(source)
        raise WeightsError(str(error).replace(str(path), source)) from error
    if config.prefix:
        state = weights.under(state, config.prefix, source)
    state = weights.without(state, [*config.ignore, *(f"{name}.*" for name in config.without)])
    remedy = "give this model's file, or extractor.prefix=, extractor.ignore= for a part"
    with foreign(f"{source} does not fit {config.model}", remedy, WeightsError):
        state = dict(network.adapt(state))
        by_order = config.match == "order" and state.keys() != network.module.state_dict().keys()
        weights.fit(network.module, state, by_order, network.classifiers, source)
