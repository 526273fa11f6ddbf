"""Make a VDNA in this process, without Ray and without a catalogue.

v = make_vdna("photos/")
w = make_vdna([array, array], ranges=v.spec.ranges)     # (height, width, 3) uint8
emd(v, w)
"""

from __future__ import annotations

import hashlib
import io
import math
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from PIL import Image

from distributions import VDNA, ActivationRanges, HistogramAxes
from extractors import Extractor, build, check_device
from pipeline.catalogue.writer import CatalogueWriter
from pipeline.config.networks import named_extractor
from pipeline.data.discovery import find
from pipeline.data.plan import network_spec
from pipeline.data.shards import Task, images_in
from pipeline.errors import UserError
from pipeline.extraction.worker import Job, Worker, cores
from pipeline.formats.vdna_files import read_ranges

MEMORY = "memory://vdna/"
DISTRIBUTIONS = ("histogram-1000", "gaussian", "layer-gaussian", "activation-ranges")


def make_vdna(
    source: str | Path | Sequence[str | Path] | Sequence[np.ndarray],
    extractor: str | Extractor = "efficientnet_lite0",
    distributions: Sequence[str] = DISTRIBUTIONS,
    *,
    ranges: HistogramAxes | str | Path | None = None,
    catalogue: str | None = None,
    storage: Mapping[str, Any] | None = None,
    image_key: str = "",
    image_column: str = "",
    catalogue_storage: Mapping[str, Any] | None = None,
    told: Callable[[int, int | None], object] | None = None,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    compile: bool = False,
    positions: Mapping[str, str] | None = None,
    **options: Any,
) -> VDNA:
    """Compute the VDNA of a set of images, in this process.

    The histogram axes are `ranges` where they are given; else the axes in use in `catalogue`; else axes that are
    calibrated on the source itself. Two VDNAs can be compared by EMD only if they have the same axes: pass
    `vdna.spec.ranges` of the first one to the call that makes the second.

        v = make_vdna("photos/")
        w = make_vdna("others.tar", ranges=v.spec.ranges)

    Args:
        source: A folder, tar, zip, Parquet file, `.txt` of paths, glob, brace range or URL of these; a list of paths;
            or a list of (height, width, 3) uint8 arrays.
        extractor: A name from conf/extractor, a timm model, `SOURCE:MODEL`, or any `Extractor`.
        distributions: Names of distributions, each kind at most once.
        ranges: Histogram axes; a file or URL of them; or "published" for those published with the extractor.
        catalogue: A catalogue whose histogram axes are used.
        storage: fsspec options for reading the source.
        image_key: Which file of a sample is the image, by what follows the first dot of its name (`jpg`, a pattern, or
            several separated by `;`). Without it every image file counts.
        image_column: Which column of a Parquet file holds the images. Without it the column is found by its content.
        catalogue_storage: fsspec options for reading the catalogue.
        told: Called after each image with the number of images read, and the number of all images or None where it is
            not known. Images that axes are calibrated on are read twice.
        batch_size: Images per batch.
        device: "auto", "cpu" or "cuda".
        precision: "fp32", "tf32" (CUDA), "bf16" or "fp16".
        threads: Processor threads of the network; None for all cores.
        compile: Whether each layer's module is compiled first.
        positions: What a kind of distribution counts: every position of an image ("all") or their mean ("mean"), for
            instance `{"gaussian": "all"}`.
        **options: Keys of the extractor: `weights="random"`, `seed=1`, `layers=["blocks.*"]`, …

    Returns:
        The VDNA, in memory. Its ledger counts the images that could not be used, by reason.

    Raises:
        UserError: The source has no usable image, a value is not allowed, or the catalogue has no axes for the network.
        ExtractorError: The network cannot be built, or a layer cannot be measured.
    """
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"device={device}: not here; allowed are auto, cpu" + ", cuda" * torch.cuda.is_available())
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(distributions, str):
        raise UserError(f"distributions={distributions!r}: give a list, for instance [{distributions!r}]")
    if not isinstance(positions or {}, Mapping):
        raise UserError(f"positions={positions!r}: give a mapping, for instance {{'gaussian': 'all'}}")
    for key, value in {"batch_size": batch_size, "threads": cores() if threads is None else threads}.items():
        if type(value) is not int or value < 1:
            raise UserError(f"{key}={value!r}: must be a whole number, at least 1")
    if isinstance(extractor, Extractor):
        if extractor.device.type != device:
            raise UserError(f"device={device}: the extractor is on {extractor.device}")
        if options or compile or precision != "fp32":
            raise UserError("options of an extractor go to build(), not to one that was built")
        network = extractor
    else:
        config = replace(named_extractor(extractor, precision, **options), compile=compile)
        check_device(config, device)
        network = build(config, device)
    urls, old_threads = _sources(source), torch.get_num_threads()
    try:
        shards = find(urls, storage=dict(storage or {}), image_key=image_key, image_column=image_column)
        task = Task(0, tuple(shards), storage or {})
        axes = _axes(network, distributions, ranges, catalogue, catalogue_storage)
        return _make(task, network, distributions, positions or {}, axes, batch_size, threads or cores(), told)
    finally:
        torch.set_num_threads(old_threads)
        for url in urls:
            if url.startswith(MEMORY):
                fsspec.filesystem("memory").rm_file(url)


def _axes(
    network: Extractor,
    distributions: Sequence[str],
    ranges: HistogramAxes | str | Path | None,
    catalogue: str | None,
    storage: Mapping[str, Any] | None,
) -> HistogramAxes | None:
    """The histogram axes that the arguments select. None: no histogram is wanted, or the axes are to be calibrated."""
    if not any(name.startswith("histogram") for name in distributions):
        return None
    if ranges is not None:
        return ranges if isinstance(ranges, HistogramAxes) else read_ranges(str(ranges), network.published_ranges)
    if catalogue is None:
        return None
    axes = CatalogueWriter(catalogue, storage).get_ranges(network_spec(network).network_id)
    if axes is None:
        raise UserError(f"catalogue={catalogue}: has no histogram axes for this network; give ranges= instead")
    return axes


def _make(
    task: Task,
    network: Extractor,
    distributions: Sequence[str],
    positions: Mapping[str, str],
    axes: HistogramAxes | None,
    batch_size: int,
    threads: int,
    told: Callable[[int, int | None], object] | None,
) -> VDNA:
    number = images_in(task.shards)
    report: Callable[[int], object] = (lambda _: None) if told is None else (lambda done: told(done, number))
    spec = network_spec(network)
    job = Job(None, spec, batch_size, threads, max(cores() - 1, 1), network.device.type)
    if any(name.startswith("histogram") for name in distributions):
        if axes is None:
            try:
                axes = HistogramAxes.calibrated(Worker(job, network, report).vdna(task).find(ActivationRanges))
            except ValueError as error:
                raise UserError(f"cannot calibrate on this source: {error}") from None
        spec = replace(spec, ranges=axes)
    try:
        spec = replace(spec, distributions=tuple(distributions), positions=positions)
    except ValueError as error:
        raise UserError(f"distributions: {error}") from None
    vdna = Worker(replace(job, spec=spec), network, report).vdna(task)
    if not vdna.images:
        raise UserError(f"no image of this source could be used: {vdna.ledger.skipped or 'the archives hold none'}")
    return vdna


def _sources(source: Any) -> list[str]:
    """URLs of a source. Arrays are written to a tar in memory."""
    if isinstance(source, str | Path):
        return [str(source)]
    source = listed(source)
    if _is_image(source) and getattr(source, "ndim", 3) != 4:  # an array with four dimensions is a list of images
        raise UserError(f"source is one {shown(source)}: give a list of arrays; {remedy(source)}")
    items = list(source) if isinstance(source, Iterable) else [source]
    if any(map(_is_image, items)) and not any(isinstance(item, str | Path) for item in items):
        return [_as_tar(items)]
    if wrong := [type(item).__name__ for item in items if not isinstance(item, str | Path)]:
        raise UserError(f"source: give a path, or a list of paths or of arrays, not {wrong[0]}")
    return [str(item) for item in items]


def listed(source: Any) -> Any:
    """A NumPy array of paths as a list. Other sources are returned unchanged."""
    texts = isinstance(source, np.ndarray) and source.ndim == 1 and source.dtype.kind in "UO" and len(source)
    if texts and all(isinstance(item, str | Path) for item in source):
        return source.tolist()
    return source


def _is_image(item: object) -> bool:
    return isinstance(item, np.ndarray | torch.Tensor | Image.Image)


def shown(image: Any) -> str:
    """The type and the shape of an image or another object, for error messages."""
    if isinstance(image, Image.Image):
        return f"PIL image {image.mode}{(image.height, image.width)}"
    if isinstance(image, np.ndarray):
        return f"{image.dtype}{image.shape}"
    if isinstance(image, torch.Tensor):
        return f"tensor {str(image.dtype).removeprefix('torch.')}{tuple(image.shape)}"
    return type(image).__name__


def remedy(image: Any) -> str:
    """How to turn an image of another form into a (height, width, 3) uint8 array, for error messages."""
    if isinstance(image, Image.Image):
        return "np.asarray(image.convert('RGB')) is one"
    if not _is_image(image) or not math.prod(image.shape):
        return "none can be made of this"
    steps = []
    if isinstance(image, torch.Tensor):
        steps.append(f"tensor{_to_numpy(image)}.cpu().numpy() is an array")
    shape = tuple(image.shape)
    if len(shape) == 4:
        steps.append("list(batch) are its images")
    elif len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        steps.append("np.dstack([grey] * 3) has three channels")
    elif len(shape) == 3 and shape[2] in (2, 4):
        steps.append("Image.fromarray(array).convert('RGB') drops alpha")
    elif len(shape) == 3 and shape[2] != 3 and shape[0] in (1, 3, 4):
        steps.append("array.transpose(1, 2, 0) moves channels to the end")
    kind = str(image.dtype).removeprefix("torch.")
    if isinstance(image, np.ndarray) and image.dtype.kind not in "biufcO":
        return "none can be made of this"
    if "float" in kind:
        steps.append("(array * 255).round().astype(np.uint8) is right for values from 0 to 1")
    elif kind != "uint8":
        steps.append("scale its values to 0 … 255 and take .astype(np.uint8)")
    return ", ".join(steps) or "[image] is a list of one"


def _to_numpy(tensor: torch.Tensor) -> str:
    """The method calls that a tensor needs before `.numpy()`."""
    steps = {
        ".detach()": tensor.requires_grad,
        ".dequantize()": tensor.is_quantized,
        ".to_dense()": tensor.layout != torch.strided,
        ".float()": tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64),
        ".resolve_conj()": tensor.is_conj(),
    }
    return "".join(step for step, needed in steps.items() if needed)


def _as_tar(arrays: Sequence[Any]) -> str:
    """Write arrays to a tar in fsspec's memory file system, to be read like any shard. Returns its URL."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for index, array in enumerate(arrays):
            fits = isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.shape[2:] == (3,)
            if not fits or not array.size:
                raise UserError(
                    f"image {index} is {shown(array)}: give (height, width, 3) uint8 arrays; {remedy(array)}"
                )
            data = io.BytesIO()
            Image.fromarray(array).save(data, "PNG", compress_level=0)
            member = tarfile.TarInfo(f"{index:08d}.png")
            member.size = data.tell()
            data.seek(0)
            tar.addfile(member, data)
    url = f"{MEMORY}{hashlib.sha256(buffer.getvalue()).hexdigest()[:32]}.tar"
    with fsspec.open(url, "wb") as file:
        file.write(buffer.getvalue())
    return url
