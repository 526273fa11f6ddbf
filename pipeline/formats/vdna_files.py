"""Reading and writing the files of the `vdna` library 0.1.1: `NAME.json` beside `NAME.npz`.

write(vdna, Path("out/digits"), "histogram-1000")      # out/digits.json, out/digits.npz
read(Path("out/digits"), ranges)                       # a VDNA with that one distribution
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from distributions import VDNA, Gaussian, Histogram, HistogramAxes, LayerGaussian, Ledger, ShardRecord, Spec
from distributions.spec import UNSTATED, bins_of
from extractors.download.files import fetch
from pipeline.errors import UserError
from pipeline.formats.datasets import MAX_NEURONS, MAX_NUMBER, MAX_TEXT
from pipeline.formats.groups import MAX_METADATA
from pipeline.formats.manifests import NAME
from pipeline.storage.disk import expand_home

VDNA_VERSION = "0.1.1"
KINDS = {"gaussian": ("mu", "var"), "layer-gaussian": ("mu", "sigma"), "activation-ranges": ("min", "max")}
"""The arrays of a layer, by distribution. A histogram has one array, under the layer's name."""
PREPROCESSING = re.compile(r"(?P<resize>[a-z_]+).*?-\d+-(?P<crop>none|center|random)-mean.*")
"""The parts of a preprocessing's id that the files state."""
ROUNDING = 1e-5
"""Tolerance for rounding in a covariance, relative to the largest variance (symmetry) or to their sum (eigenvalues)."""
MAX_COUNT = 2**31 - 1
MAX_ARRAYS = 16 << 30


def write(vdna: VDNA, path: Path, distribution: str) -> list[Path]:
    """Write one distribution of a VDNA as the `vdna` library does, and return the paths of the two files.

    Raises `UserError` if the VDNA lacks it or the format cannot hold it: counts above 2**31 - 1, a name with a dot.
    """
    if distribution not in vdna.distributions:
        raise UserError(f"--distribution {distribution}: this VDNA has {', '.join(vdna.distributions)}")
    refuse_unusual(vdna, distribution)
    return store(path, _metadata(vdna, distribution), arrays_of(vdna, distribution))


def arrays_of(vdna: VDNA, distribution: str) -> dict[str, np.ndarray]:
    """The arrays of a distribution, with the names and dtypes of the `vdna` library."""
    kind = vdna.distributions[distribution]
    arrays: dict[str, np.ndarray] = {}
    for layer in vdna.layers:
        if isinstance(kind, Histogram):
            arrays[layer] = as_int32(layer, vdna.histogram(layer))
        elif isinstance(kind, Gaussian):
            mean, variance = vdna.gaussian(layer)
            arrays[f"mu-{layer}"], arrays[f"var-{layer}"] = mean.astype(np.float32), variance.astype(np.float32)
        elif isinstance(kind, LayerGaussian):
            arrays[f"mu-{layer}"], arrays[f"sigma-{layer}"] = vdna.layer_gaussian(layer)
        else:
            arrays[f"min-{layer}"], arrays[f"max-{layer}"] = vdna.ranges(layer)
    return arrays


def refuse_unusual(vdna: VDNA, distribution: str) -> None:
    """Raise `UserError` unless a distribution has its default samples: the files of other programs assume these."""
    if not vdna.spec.has_default_samples(distribution):
        samples = vdna.spec.samples_of(distribution)
        raise UserError(f"{distribution} was made with positions={samples}, which these files cannot say")


def as_int32(layer: str, counts: np.ndarray) -> np.ndarray:
    if counts.max(initial=0) > MAX_COUNT:
        raise UserError(f"layer {layer} has counts above {MAX_COUNT}, which the vdna library's int32 cannot hold")
    return counts.astype(np.int32)


def store(path: Path, metadata: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[Path]:
    """Write `path.json` and `path.npz`. Raises `UserError` for a name with a dot, where the `vdna` library cuts it."""
    path = expand_home(path)
    if "." in path.name or not path.name:
        raise UserError(f"{path.name or path}: give a name without a dot, at which the vdna library would cut it")
    files = [path.with_name(f"{path.name}.{ending}") for ending in ("json", "npz")]
    path.parent.mkdir(parents=True, exist_ok=True)
    described, packed = json.dumps(metadata, indent=4), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:  # np.savez cannot store a layer named `file`
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    files[0].write_text(described)
    files[1].write_bytes(packed.getvalue())
    return files


def _metadata(vdna: VDNA, distribution: str) -> dict[str, Any]:
    """The contents of NAME.json. No key may be added: the `vdna` library takes both settings as keyword arguments."""
    bins = bins_of(distribution)
    match = PREPROCESSING.fullmatch(vdna.spec.preprocessing)
    return {
        "time_of_compute": datetime.now().strftime("%I:%M%p on %B %d, %Y"),
        "vdna_version": VDNA_VERSION,
        "distribution": {} if bins is None else {"hist_nb_bins": bins},
        "type": "histogram" if bins is not None else distribution,
        "name": distribution,
        "data_settings": {
            "source": ", ".join(record.url for record in list(vdna.ledger)[:10]),
            "crop_to_square_pre_resize": match["crop"] if match else "none",
            "resize_mode": match["resize"] if match else "clean",
            "custom_fn_resize": None,
            "custom_np_image_tranform": None,
            "custom_pil_image_tranform": None,
            "shuffle_files": False,
            "num_images": -1,
        },
        "extraction_settings": {
            "average_feats_spatially": distribution in ("gaussian", "layer-gaussian"),
            "accumulate_spatial_feats_in_hist": bins is not None,
            "accumulate_sample_feats_in_hist": bins is not None,
            "keep_only_min_max": distribution == "activation-ranges",
            "normalise_feats": bins is not None,
            "range_scale_for_norm_params": 1.2,
            "hist_range": [-1.0, 1.0],
            "hist_nb_bins": bins or 0,
            "hist_channel_batch_size": 10,
            "num_workers": 0,
            "batch_size": 0,
            "device": "cpu",
            "description": "",
            "verbose": False,
            "n_sample_images": 0,
            "sample_images_folder": "",
            "seed": 0,
            "hub_repo": "",
        },
        "num_images": vdna.images,
        "feature_extractor_name": vdna.spec.extractor,
        "neurons_list": vdna.layers,
    }


def read(path: Path, ranges: HistogramAxes | None = None) -> VDNA:
    """Read `path.json` and `path.npz` as a VDNA.

    The files state crop and resize, but neither the weights nor the histogram axes. What they do not state does not
    prevent a comparison. A histogram needs its axes as `ranges`; the authors of the `vdna` library publish them beside
    their networks. Raises `UserError` if the files are invalid, before anything large is allocated.
    """
    meta, arrays = load(path)
    name, layers, images = meta["name"], meta["neurons_list"], meta["num_images"]
    if bins_of(name) is not None and ranges is None:
        raise UserError(f"{path.name}: the file does not hold the histogram's axes; give --ranges FILE")
    data = meta["data_settings"]
    crop, resize = data.get("crop_to_square_pre_resize", "none"), data.get("resize_mode", "clean")
    extractor, preprocessing = meta["feature_extractor_name"], f"{resize}*-{crop}-mean*"
    try:
        spec = Spec(extractor, UNSTATED, UNSTATED, preprocessing, UNSTATED, layers, (name,), ranges)
        vdna = VDNA(spec)
    except ValueError as error:
        raise UserError(f"{path.name}: {error}") from None
    source = str(data["source"]).encode(errors="replace").decode()[:MAX_TEXT]
    vdna.load(_state(vdna, arrays, images), Ledger([ShardRecord(source, counted=images)]))
    return vdna


def read_ranges(where: str, published: str = "") -> HistogramAxes:
    """The histogram axes in a ranges file of this program or of the `vdna` library. Raises `UserError`.

    `where` is a path, a URL or `hf:OWNER/NAME/FILE`, or "published" for `published`, the place of an extractor's axes.
    """
    if where == "published" and not published:
        raise UserError("ranges=published: none are stated for this extractor; give a ranges file")
    try:
        return HistogramAxes.from_json(fetch(published if where == "published" else where).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"ranges={where}: {error}") from None


def load(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description in `path.json` and the arrays in `path.npz`, checked against it. Raises `UserError`."""
    path = expand_home(path)
    base = path.with_suffix("") if path.suffix in (".json", ".npz") else path
    try:
        return _described(base)
    except UserError:
        raise
    except FileNotFoundError as error:
        hint = "a VDNA of the vdna library is NAME.json beside NAME.npz"
        raise UserError(f"{error.filename}: no such file; {hint}") from None
    except Exception as error:  # the readers of JSON and npz can raise any exception
        raise UserError(f"{base.name}: not a VDNA of the vdna library ({str(error)[:200]})") from None


def _described(base: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    described = base.with_name(f"{base.name}.json")
    if described.stat().st_size > MAX_METADATA:
        raise ValueError("the description is too large")
    meta = json.loads(described.read_text())
    name, layers, images = meta["name"], meta["neurons_list"], meta["num_images"]
    extractor = meta["feature_extractor_name"]
    if not NAME.fullmatch(extractor):
        raise UserError(f"{base.name}: feature_extractor_name {extractor[:40]!r} cannot name a folder")
    if not layers or not all(type(n) is int and n >= 1 for n in (images, *layers.values())):
        raise ValueError("its images and neurons are not numbers")
    if images > MAX_NUMBER or sum(layers.values()) > MAX_NEURONS:
        raise ValueError("it counts too many images or neurons")
    if "source" not in dict(meta["data_settings"]) or not isinstance(meta["extraction_settings"], dict):
        raise ValueError("its settings are missing")
    axes = [meta["extraction_settings"].get(key) for key in ("range_scale_for_norm_params", "hist_range")]
    if bins_of(name) is not None and axes not in ([1.2, [-1.0, 1.0]], [None, None]):
        raise UserError(f"{base.name}: its histograms are on other axes than the vdna library's own: {axes}")
    with zipfile.ZipFile(base.with_name(f"{base.name}.npz")) as archive:
        arrays = {key: _of_network(archive, key, shape) for key, shape in _shapes(name, layers).items()}
    for layer in layers:
        _check(name, layer, arrays, images)
    return meta, arrays


def _check(name: str, layer: str, arrays: Mapping[str, np.ndarray], images: int) -> None:
    """Raise `ValueError` for numbers that no set of images can have."""
    if bins_of(name) is not None:
        if not arrays[layer].any(axis=1).all():
            raise ValueError(f"a neuron of {layer} counted nothing")
        return
    first, second = (arrays[f"{kind}-{layer}"] for kind in KINDS[name])
    if name == "activation-ranges" and (first > second).any():
        raise ValueError(f"min-{layer} is above max-{layer}")
    if name == "gaussian" and (second < 0).any():
        raise ValueError(f"var-{layer} is negative")
    if name == "layer-gaussian" and (fault := covariance_fault(second)):
        raise ValueError(f"sigma-{layer} {fault}")
    if name.endswith("gaussian") and images == 1 and second.any():
        raise ValueError("one image has no variance")


def covariance_fault(covariance: np.ndarray) -> str:
    """Why a matrix is no covariance, apart from rounding; empty if it is one."""
    variance = covariance.diagonal().astype(np.float64)
    if (variance < 0).any() or not np.abs(covariance - covariance.T).max() <= ROUNDING * variance.max(initial=0):
        return "is not a covariance: not symmetric, or with negative variances"
    if np.linalg.eigvalsh(covariance.astype(np.float64))[0] < -ROUNDING * variance.sum():
        return "is not a covariance: not positive semi-definite"
    return ""


def _shapes(name: str, layers: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Name and shape of a distribution's arrays. Other arrays, such as the library's pickled `{}`, are not opened."""
    bins = bins_of(name)
    if bins is not None:
        shapes: dict[str, tuple[int, ...]] = {layer: (n, bins) for layer, n in layers.items()}
    else:
        pairs = [(kind, layer, n) for layer, n in layers.items() for kind in KINDS[name]]
        shapes = {f"{kind}-{layer}": (n, n) if kind == "sigma" else (n,) for kind, layer, n in pairs}
    if sum(8 * math.prod(shape) for shape in shapes.values()) > MAX_ARRAYS:
        raise ValueError("its arrays would be too large")
    return shapes


def npz_array(
    archive: zipfile.ZipFile, key: str, shape: tuple[int, ...] | None = None, max_bytes: int = MAX_ARRAYS
) -> np.ndarray:
    """The array `key` of an .npz file, read only if its header states the `shape` and at most `max_bytes`. Raises
    `ValueError`, also for numbers that are not finite."""
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # other methods unpack without a limit
        raise ValueError(f"{key} is compressed in an unusual way")
    with archive.open(info) as file:
        read_header = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}[read_magic(file)]
        stored, _, dtype = read_header(file)
        size = file.tell() + math.prod(stored) * dtype.itemsize
    if shape not in (None, stored) or size > max_bytes or dtype.kind not in "uif" or info.file_size != size:
        raise ValueError(f"{key} is {dtype}{stored} and not {shape}")
    with archive.open(info) as file:
        array = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    if not np.isfinite(array).all():
        raise ValueError(f"{key} has values that are not finite")
    return array


def _of_network(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> np.ndarray:
    array = npz_array(archive, key, shape)
    dtype = array.dtype
    limit = MAX_NUMBER if dtype.kind in "ui" else np.finfo(np.float32).max
    if len(shape) == 2 and not key.startswith("sigma-") and (dtype.kind == "f" or (array < 0).any()):
        raise ValueError(f"{key} are not counts")
    if not (np.abs(array) <= limit).all():
        raise ValueError(f"{key} are not the numbers of a network")
    return array


def _state(vdna: VDNA, arrays: Mapping[str, np.ndarray], images: int) -> dict[str, np.ndarray]:
    """The arrays of a VDNA's state from those of the files. Counts that the files do not have are zero."""
    layers = list(vdna.layers)

    def all_layers(prefix: str, dtype: str) -> np.ndarray:
        return np.concatenate([arrays[f"{prefix}{layer}"] for layer in layers]).astype(dtype)

    state = vdna.state()
    if vdna.has("histogram"):
        state["histogram"] = all_layers("", "uint64")
    elif vdna.has("gaussian"):
        state["count"][:] = images
        state["mean"], state["m2"] = all_layers("mu-", "float64"), all_layers("var-", "float64") * max(images - 1, 0)
    elif vdna.has("activation-ranges"):
        state["min"], state["max"] = all_layers("min-", "float32"), all_layers("max-", "float32")
    else:
        gaussians = vdna.find(LayerGaussian)
        for layer in layers:
            gaussians.count[layer].fill_(images)
            gaussians.mean[layer] = torch.from_numpy(arrays[f"mu-{layer}"].astype(np.float64))
            comoment = arrays[f"sigma-{layer}"].astype(np.float64) * max(images - 1, 0)
            gaussians.comoment[layer] = torch.from_numpy(comoment)
        state = vdna.state()
    return state
