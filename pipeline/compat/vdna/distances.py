"""Distances with the arguments of the `vdna` library. Where `vdna` fails an assertion, `AssertionError` is raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from distributions.distances import Factor, cdf, frechet, frechet_rows
from distributions.kernels import row_emd
from distributions.kernels.factors import one_thread_each
from distributions.moments import LayerMoments, Moments
from pipeline.compat.vdna.vdna import VDNA


def EMD(
    vdna1: VDNA,
    vdna2: VDNA,
    use_neurons_from_layer: str | None = None,
    use_neuron_index: int | None = None,
    return_neuron_wise: bool = False,
) -> Any:
    """Earth mover's distance between histograms, in bins.

    Args:
        vdna1: A VDNA of histograms.
        vdna2: Another, with as many bins, of the same extractor and on the same device.
        use_neurons_from_layer: The layer whose neurons count. None: all.
        use_neuron_index: The neuron of that layer that counts. None: all.
        return_neuron_wise: Whether the distances of the neurons are returned, and not their mean.

    Returns:
        A float64 tensor: the mean over the neurons selected; or `{layer: (neurons)}`.

    Raises:
        AssertionError: The two cannot be compared, or there is no such layer or neuron; as in the library `vdna`.
        ValueError: One neuron is asked for, and neuron-wise distances.
    """
    if vdna1.name != vdna2.name or vdna1.type != "histogram":
        raise AssertionError(f"EMD needs two histograms of as many bins, not {vdna1.name} and {vdna2.name}")

    def rows(layer: str) -> np.ndarray:
        return row_emd(*(cdf(np.ascontiguousarray(v.data[layer].cpu().numpy(), np.uint64)) for v in (vdna1, vdna2)))

    return _selected(vdna1, vdna2, rows, use_neurons_from_layer, use_neuron_index, return_neuron_wise)


def NFD(
    vdna1: VDNA,
    vdna2: VDNA,
    use_neurons_from_layer: str | None = None,
    use_neuron_index: int | None = None,
    return_neuron_wise: bool = False,
) -> Any:
    """Fréchet distance between the Gaussians of each neuron.

    Args:
        vdna1: A VDNA of `gaussian` or `layer-gaussian`.
        vdna2: Another of the same extractor and on the same device.
        use_neurons_from_layer: As for `EMD`.
        use_neuron_index: As for `EMD`.
        return_neuron_wise: As for `EMD`.

    Returns:
        A float64 tensor: the mean over the neurons selected; or `{layer: (neurons)}`.

    Raises:
        AssertionError: As for `EMD`.
        ValueError: As for `EMD`.
    """
    for vdna in (vdna1, vdna2):
        if vdna.type not in ("gaussian", "layer-gaussian"):
            raise AssertionError(f"NFD needs Gaussians, not {vdna.name}")

    def rows(layer: str) -> np.ndarray:
        return frechet_rows(_marginals(vdna1, layer), _marginals(vdna2, layer))

    return _selected(vdna1, vdna2, rows, use_neurons_from_layer, use_neuron_index, return_neuron_wise)


def FD(
    vdna1: VDNA,
    vdna2: VDNA,
    use_neurons_from_layer: str | None = None,
    use_neuron_index: int | None = None,
    return_neuron_wise: bool = False,
) -> Any:
    """Fréchet distance between the Gaussians of each layer.

    Args:
        vdna1: A VDNA of `layer-gaussian`.
        vdna2: Another of the same extractor and on the same device.
        use_neurons_from_layer: As for `EMD`.
        use_neuron_index: As for `EMD`; then the distance is `NFD`'s.
        return_neuron_wise: As for `EMD`; then the distances are `NFD`'s.

    Returns:
        A float64 tensor: the mean over the layers selected.

    Raises:
        AssertionError: As for `EMD`.
        ValueError: As for `EMD`.
    """
    for vdna in (vdna1, vdna2):
        if vdna.type != "layer-gaussian":
            raise AssertionError(f"FD needs layer Gaussians, not {vdna.name}")
    if return_neuron_wise or use_neuron_index is not None:
        return NFD(vdna1, vdna2, use_neurons_from_layer, use_neuron_index, return_neuron_wise)
    layers = _layers(vdna1, vdna2, use_neurons_from_layer, None)

    def of(layer: str) -> float:
        factors = [
            Factor.of(LayerMoments(v.data[layer]["mu"].cpu().numpy(), v.data[layer]["sigma"].cpu().numpy()))
            for v in (vdna1, vdna2)
        ]
        return frechet(*factors)

    return torch.tensor(one_thread_each(of, layers), dtype=torch.float64).mean().to(vdna1.device)


def _marginals(vdna: VDNA, layer: str) -> Moments:
    arrays = {key: value.cpu().numpy().astype(np.float64) for key, value in vdna.data[layer].items()}
    return Moments(arrays["mu"], arrays["var"] if "var" in arrays else np.diagonal(arrays["sigma"]))


def _layers(vdna1: VDNA, vdna2: VDNA, layer: str | None, neuron: int | None) -> list[str]:
    """The layers to compare. Raises `AssertionError`, as `vdna` does, if the arguments do not fit."""
    if vdna1.feature_extractor_name != vdna2.feature_extractor_name:
        raise AssertionError("Feature extractors must be the same")
    if vdna1.neurons_list != vdna2.neurons_list:
        raise AssertionError("the VDNAs have different layers")
    if neuron is not None and not layer:
        raise AssertionError("If specifying neuron index, you should also specify layer name")
    if layer and layer not in vdna1.neurons_list:
        raise AssertionError(f"no layer {layer}; there are {', '.join(vdna1.neurons_list)}")
    if layer and neuron is not None and not -vdna1.neurons_list[layer] <= neuron < vdna1.neurons_list[layer]:
        raise AssertionError(f"layer {layer} has {vdna1.neurons_list[layer]} neurons")
    if vdna1.device != vdna2.device:
        raise AssertionError("VDNAs must be on the same device")
    return [layer] if layer else list(vdna1.neurons_list)


def _selected(
    vdna1: VDNA,
    vdna2: VDNA,
    rows: Callable[[str], np.ndarray],
    layer: str | None,
    neuron: int | None,
    neuron_wise: bool,
) -> Any:
    if neuron_wise and neuron is not None:
        raise ValueError("Cannot return neuron-wise distance when specifying a specific neuron to use")
    names = _layers(vdna1, vdna2, layer, neuron)
    by_layer = {name: torch.from_numpy(rows(name)).to(vdna1.device) for name in names}
    if neuron_wise:
        return by_layer
    if neuron is not None:
        return by_layer[names[0]][neuron]
    return torch.cat(list(by_layer.values())).mean()
