"""On a GPU: the bare network, the network with all four distributions, the vdna library's way, and JPEG decoding.

    python -m bench.gpu [RESULTS.json]             # about five minutes on an H100
    python -m bench.gpu --profile                  # the GPU time of each kernel in the full pass
    python -m bench.gpu --device cpu --tiny        # a dry run of the same code: its figures mean nothing

Needs torch, timm, torchvision, numba, scipy and a CUDA device, no Ray and no Hydra. Weights and images are random:
they affect the time only by the distribution of activations over the bins. Every figure is the median of `ROUNDS`
measurements, with the smallest and the largest. Alternatives take turns, and a ratio compares figures of one turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.io import decode_jpeg, encode_jpeg

from bench.figures import ROUNDS, Figures, figure, ratios, table
from distributions import VDNA, ActivationRanges, HistogramAxes, Spec
from distributions.kernels import count_bins, extremes, position_means
from distributions.spec import layer_slices
from extractors import ExtractorConfig, FrozenNetwork, build
from extractors.arithmetic import arithmetic
from extractors.preprocess.device_decode import decode_jpegs, device_inputs

ALL = ("histogram-1000", "gaussian", "layer-gaussian", "activation-ranges")


@dataclass(frozen=True)
class Size:
    """The size of the measurements: the network, images per batch, batches per measurement, number of JPEGs."""

    model: str = "vit_base_patch16_224"
    batch: int = 256
    batches: int = 20
    seed_batch: int = 64
    kernel_repeats: int = 50
    jpegs: int = 512


TINY = Size("test_vit", 2, 1, 2, 1, 4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="the JSON file to write")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a small network, few images")
    parser.add_argument("--compile", action="store_true", help="bf16 with compile=true as well")
    parser.add_argument("--profile", action="store_true", help="print the full pass's kernels by time, measure nothing")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured", file=sys.stderr)
        return 1
    size = TINY if options.tiny else Size()
    machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    note = "" if options.device == "cuda" and not options.tiny else "; a dry run: these figures mean nothing"
    print(f"{machine}, torch {torch.__version__}, {size.model}{note}", flush=True)
    if options.profile:
        profile(size, options.device)
        return 0
    figures: Figures = {}
    for precision in ("bf16", "tf32", "fp32") if options.device == "cuda" else ("bf16", "fp32"):
        figures |= shown(networks(size, precision, options.device, options.compile and precision == "bf16"))
    figures |= shown(kernels(size, options.device))
    figures |= shown(jpegs(size, options.device))
    if options.results:
        content = {"machine": machine, "torch": torch.__version__, "note": note.lstrip("; "), "figures": figures}
        options.results.write_text(json.dumps(content, indent=1))
    return 0


def networks(size: Size, precision: str, device: str, compiled: bool) -> Figures:
    """The bare and the full forward pass; for bf16 also the vdna library's. Ids without a precision are for bf16."""
    extractor = network(size, precision, device)
    side = extractor.preprocess.size
    pinned = torch.randn(size.batch, 3, side, side, pin_memory=device == "cuda")
    images = pinned.to(device)
    vdna = VDNA(spec_of(extractor, images), device)
    on_one_stream = network(size, precision, device)
    on_one_stream.overwritten = frozenset(on_one_stream.modules)
    ways: dict[str, Callable[[], None]] = {
        "gpu_forward": lambda: bare(extractor.model, images, precision),
        "gpu_full": lambda: extractor(images, vdna.update),
        "gpu_full_pinned": lambda: extractor(pinned, vdna.update),
        "gpu_full_one_stream": lambda: on_one_stream(images, vdna.update),
    }
    if compiled:
        faster = network(size, precision, device, compile=True)
        ways["gpu_forward_compiled"] = lambda: bare(faster.model, images, precision)
        ways["gpu_full_compiled"] = lambda: faster(images, vdna.update)
    if precision == "bf16":
        half = network(size, "fp32", device).model.to(torch.bfloat16)
        ways["gpu_forward_all_bf16"] = lambda: bare(half, images.bfloat16(), "fp32")
    rates = {name: per_second(size.batch * size.batches, t) for name, t in rounds(ways, size.batches, device).items()}
    suffix = "" if precision == "bf16" else f"_{precision}"
    figures = {f"{name}{suffix}": figure(values, "images/s") for name, values in rates.items()}
    figures[f"gpu_extract{suffix}"] = figure(ratios(rates["gpu_full"], rates["gpu_forward"]), "ratio")
    if compiled:
        figures["gpu_extract_compiled"] = figure(
            ratios(rates["gpu_full_compiled"], rates["gpu_forward_compiled"]), "ratio"
        )
    if precision == "bf16":
        seed = {"gpu_seed": seed_library(extractor, vdna.spec, images[: size.seed_batch])}
        theirs = per_second(size.seed_batch, rounds(seed, 1, device)["gpu_seed"])
        figures["gpu_seed"] = figure(theirs, "images/s")
        figures["gpu_vs_seed"] = figure(ratios(rates["gpu_full"], theirs), "ratio")
    return figures


def network(size: Size, precision: str, device: str, compile: bool = False) -> FrozenNetwork:
    return build(ExtractorConfig("bench", size.model, weights="random", precision=precision, compile=compile), device)


def profile(size: Size, device: str) -> None:
    extractor = network(size, "bf16", device)
    side = extractor.preprocess.size
    images = torch.randn(size.batch, 3, side, side, device=device)
    vdna = VDNA(spec_of(extractor, images), device)
    extractor(images, vdna.update)
    wait(device)
    with torch.profiler.profile() as recorded:
        for _ in range(3):
            extractor(images, vdna.update)
        wait(device)
    print(recorded.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=30, max_name_column_width=70))


def spec_of(extractor: FrozenNetwork, images: torch.Tensor) -> Spec:
    """All four distributions, on axes calibrated with these images."""
    observed = ActivationRanges(extractor.layers, extractor.device)
    extractor(images, observed.update)
    identity = ("bench", extractor.architecture, extractor.weights_sha256, extractor.preprocess.id)
    return Spec(*identity, extractor.config.precision, extractor.layers, ALL, HistogramAxes.calibrated(observed))


@torch.inference_mode()
def bare(model: torch.nn.Module, images: torch.Tensor, precision: str) -> None:
    with arithmetic(precision, images.device):
        model(images)


def seed_library(extractor: FrozenNetwork, spec: Spec, images: torch.Tensor) -> Callable[[], None]:
    """What vdna 0.1.1 computes for a batch, with one forward pass for each of the four distributions. It keeps every
    layer's activations, then normalises them in float64 and calls `torch.histc` for every channel, averages them
    (twice), or takes minima and maxima over images."""
    assert spec.ranges is not None
    axes = {}
    for layer, part in layer_slices(spec.layers).items():
        both = (spec.ranges.centre[part], spec.ranges.half_width[part])
        axes[layer] = [torch.from_numpy(a).to(images.device).view(1, -1, 1, 1) for a in both]

    def features() -> dict[str, torch.Tensor]:
        kept: dict[str, torch.Tensor] = {}
        extractor(images, lambda layer, a: kept.update({layer: a.permute(0, 2, 1).unsqueeze(3)}))
        return kept

    def histograms() -> None:
        for layer, values in features().items():
            middle, half = axes[layer]
            values = ((values - middle) / half).clamp(-1, 1)
            counts = torch.zeros((values.shape[1], 1000), dtype=torch.long, device=values.device)
            for channel in range(values.shape[1]):
                counts[channel] = torch.histc(values[:, channel].flatten(), 1000, -1, 1)

    def averages() -> None:
        for values in features().values():
            values.mean((2, 3), keepdim=True)

    def extreme() -> None:
        for values in features().values():
            torch.stack((values.min(0, keepdim=True).values, values.max(0, keepdim=True).values), -1)

    def all_four() -> None:
        histograms()
        averages()
        averages()
        extreme()

    return all_four


def kernels(size: Size, device: str) -> Figures:
    """ns per activation of each kernel, on tokens of a ViT-B and on rectified pixels of a ResNet's first blocks."""
    tokens, pixels = torch.randn(size.batch, 197, 768, device=device), torch.randn(size.batch, 64, 56, 56).relu()
    pixels = pixels.to(device).contiguous(memory_format=torch.channels_last).flatten(2).transpose(1, 2)
    figures: Figures = {}
    batches = {
        "fp32": tokens,
        "bf16": tokens.bfloat16(),
        "relu": pixels,
        "nchw": pixels.transpose(1, 2).contiguous().transpose(1, 2),
    }
    for name, activations in batches.items():
        neurons = activations.shape[2]
        axes = [torch.full((neurons,), value, dtype=torch.float64, device=device) for value in (0.0, 5.0)]
        slots = torch.zeros((neurons, 1003), dtype=torch.int32, device=device)  # as a histogram counts them
        low, high = (torch.full((neurons,), value, device=device) for value in (torch.inf, -torch.inf))
        nonfinite = torch.zeros(neurons, dtype=torch.int64, device=device)
        ways = {
            "count_bins": lambda a=activations, axes=axes, slots=slots: count_bins(a, *axes, slots),  # type: ignore[call-arg]
            "position_means": lambda a=activations: position_means(a),
            "extremes": lambda a=activations, out=(low, high, nonfinite): extremes(a, *out),
        }
        for kernel, times in rounds(ways, size.kernel_repeats, device).items():
            each = [t / size.kernel_repeats / activations.numel() * 1e9 for t in times]
            figures[f"gpu_{kernel}_{name}"] = figure(each, "ns per activation")
    return figures


def jpegs(size: Size, device: str) -> Figures:
    """Images per second of JPEGs of 500 x 375 pixels in batches of 64: decoded only, and made inputs of the network."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 24, 32, generator=draw) * 255
    pictures = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic").clamp(0, 255)
    pictures = (pictures + torch.randn(pictures.shape, generator=draw) * 8).clamp(0, 255).byte()
    encoded = [encode_jpeg(picture, 90) for picture in pictures]
    files = [encoded[i % 8].numpy().tobytes() for i in range(size.jpegs)]
    preprocess = build(ExtractorConfig("bench", size.model, weights="random")).preprocess
    batches = [files[start : start + 64] for start in range(0, len(files), 64)]
    ways: dict[str, Callable[[], Any]] = {
        "gpu_decode": lambda: [decode_jpegs(batch, device) for batch in batches],
        "gpu_decode_input": lambda: [device_inputs(b, [""] * len(b), preprocess, device) for b in batches],
        "gpu_decode_by_processor": lambda: [decode_jpeg(encoded[i % 8]) for i in range(len(files))],
    }
    assert not any(picture is None for picture in decode_jpegs(files, device))
    return {name: figure(per_second(len(files), times), "images/s") for name, times in rounds(ways, 1, device).items()}


def rounds(ways: dict[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of each way, `ROUNDS` times. The ways take turns, after a turn that warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            wait(device)
            start = time.perf_counter()
            for _ in range(repeats if turn else 1):
                way()
            wait(device)
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def shown(figures: Figures) -> Figures:
    print(table(figures), flush=True)
    return figures


def per_second(images: int, times: list[float]) -> list[float]:
    return [images / seconds for seconds in times]


if __name__ == "__main__":
    sys.exit(main())
