"""The seed library's files, `NAME.json` beside `NAME.npz`: written so that it loads them, read as VDNAs.

    write(vdna, Path("out/digits"), "histogram-1000")      # out/digits.json, out/digits.npz
    read(Path("out/digits"), ranges)                       # a VDNA of that one distribution

The formats are those of vdna 0.1.1.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from distributions import VDNA, ActivationRanges, Gaussian, Histogram, LayerGaussian, Ledger, Ranges, ShardRecord, Spec
from distributions.vdna import bins_of
from pipeline.errors import UserError
from pipeline.groups import MAX_METADATA, MAX_NEURONS, MAX_NUMBER, MAX_TEXT
from pipeline.store import NAME

SEED_VERSION = "0.1.1"
MOST_COUNTS = 2**31 - 1
MAX_ARRAYS = 16 << 30
NOT_STATED = "not stated in the file"


def write(vdna: VDNA, path: Path, distribution: str) -> list[Path]:
    """Write one distribution of a VDNA as the seed would; returns the two files.

    Raises `UserError` where the seed's format cannot hold it: counts above 2**31 - 1, a name with a dot.
    """
    if "." in path.name:
        raise UserError(f"{path.name}: the seed library cuts names at a dot; choose one without")
    if distribution not in vdna.distributions:
        raise UserError(f"--distribution {distribution}: this VDNA has {', '.join(vdna.distributions)}")
    kind = vdna.distributions[distribution]
    arrays: dict[str, np.ndarray] = {}
    for layer in vdna.layers:
        if isinstance(kind, Histogram):
            counts = vdna.histogram(layer)
            if counts.max(initial=0) > MOST_COUNTS:
                raise UserError(f"layer {layer} has counts above {MOST_COUNTS}, which the seed's int32 cannot hold")
            arrays[layer] = counts.astype(np.int32)
        elif isinstance(kind, Gaussian):
            mean, variance = vdna.gaussian(layer)
            arrays[f"mu-{layer}"], arrays[f"var-{layer}"] = mean.astype(np.float32), variance.astype(np.float32)
        elif isinstance(kind, LayerGaussian):
            arrays[f"mu-{layer}"], arrays[f"sigma-{layer}"] = vdna.layer_gaussian(layer)
        else:
            arrays[f"min-{layer}"], arrays[f"max-{layer}"] = vdna.ranges(layer)
    files = [path.with_name(f"{path.name}.{ending}") for ending in ("json", "npz")]
    path.parent.mkdir(parents=True, exist_ok=True)
    files[0].write_text(json.dumps(_metadata(vdna, distribution), indent=4))
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]  # layer names are the keys
    files[1].write_bytes(packed.getvalue())
    return files


def _metadata(vdna: VDNA, distribution: str) -> dict[str, Any]:
    """The seed's description. It feeds both settings back as keyword arguments: no key may be added."""
    bins = bins_of(distribution)
    return {
        "time_of_compute": datetime.now().strftime("%I:%M%p on %B %d, %Y"),
        "vdna_version": SEED_VERSION,
        "distribution": {} if bins is None else {"hist_nb_bins": bins},
        "type": "histogram" if bins is not None else distribution,
        "name": distribution,
        "data_settings": {
            "source": ", ".join(record.url for record in list(vdna.ledger)[:10]),
            "crop_to_square_pre_resize": "none",
            "resize_mode": "clean",
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


def read(path: Path, ranges: Ranges | None = None) -> VDNA:
    """The VDNA in the seed's files `path.json` and `path.npz`.

    They say neither the weights nor the histogram's axes: the axes are `ranges` (the seed publishes
    them beside its networks), and the VDNA compares with others that were imported the same way.
    Raises `UserError`, before anything large is allocated, when the files are not what they say.
    """
    base = path.with_suffix("") if path.suffix in (".json", ".npz") else path
    try:
        return _vdna(base, ranges)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; a VDNA of the seed is NAME.json beside NAME.npz") from None
    except Exception as error:  # what reads JSON and npz raises anything
        raise UserError(f"{base.name}: not a VDNA of the seed library ({str(error)[:200]})") from None


def _vdna(base: Path, ranges: Ranges | None) -> VDNA:
    described = base.with_name(f"{base.name}.json")
    if described.stat().st_size > MAX_METADATA:
        raise ValueError("the description is too large")
    meta = json.loads(described.read_text())
    name, layers, images = meta["name"], meta["neurons_list"], meta["num_images"]
    extractor, source = meta["feature_extractor_name"], str(meta["data_settings"]["source"])[:MAX_TEXT]
    if not NAME.fullmatch(extractor):
        raise UserError(f"{base.name}: feature_extractor_name {extractor[:40]!r} cannot name a folder")
    if not all(type(n) is int and n >= low for n, low in ((images, 0), *((n, 1) for n in layers.values()))):
        raise ValueError("its images and neurons are not numbers")
    if images > MAX_NUMBER or sum(layers.values()) > MAX_NEURONS:
        raise ValueError("it counts too many images or neurons")
    if bins_of(name) is not None and ranges is None:
        raise UserError(f"{base.name}: the file does not hold the histogram's axes; give --ranges FILE")
    spec = Spec(extractor, NOT_STATED, NOT_STATED, NOT_STATED, "fp32", layers, (name,), ranges)
    with zipfile.ZipFile(base.with_name(f"{base.name}.npz")) as archive:
        arrays = {key: _array(archive, key, shape) for key, shape in _shapes(name, layers).items()}
    vdna = VDNA(spec)
    vdna.load(_state(vdna, arrays, images), Ledger([ShardRecord(source, counted=images)]))
    return vdna


def _shapes(name: str, layers: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The arrays of a distribution. The seed stores a pickled `{}` beside some: those are never opened."""
    bins = bins_of(name)
    if bins is not None:
        shapes: dict[str, tuple[int, ...]] = {layer: (n, bins) for layer, n in layers.items()}
    else:
        kinds = {"gaussian": ("mu", "var"), "layer-gaussian": ("mu", "sigma"), "activation-ranges": ("min", "max")}
        pairs = [(kind, layer, n) for layer, n in layers.items() for kind in kinds[name]]
        shapes = {f"{kind}-{layer}": (n, n) if kind == "sigma" else (n,) for kind, layer, n in pairs}
    if sum(8 * math.prod(shape) for shape in shapes.values()) > MAX_ARRAYS:
        raise ValueError("its arrays would be too large")
    return shapes


def _array(archive: zipfile.ZipFile, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """One array of numbers, read once its header and its size in the file are found right."""
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without bounds
        raise ValueError(f"{key} is compressed in an unusual way")
    with archive.open(info) as file:
        header = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}[read_magic(file)]
        found, _, dtype = header(file)
        size = file.tell() + math.prod(shape) * dtype.itemsize
    if found != shape or dtype.kind not in "uif" or info.file_size != size:
        raise ValueError(f"{key} is {dtype}{found} and not {shape}")
    with archive.open(info) as file:
        array = np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    most = MAX_NUMBER if dtype.kind in "ui" else np.finfo(np.float32).max
    if len(shape) == 2 and not key.startswith("sigma-") and (dtype.kind == "f" or (array < 0).any()):
        raise ValueError(f"{key} are not counts")
    if not (np.abs(array) <= most).all():
        raise ValueError(f"{key} are not the numbers of a network")
    return array


def _state(vdna: VDNA, arrays: Mapping[str, np.ndarray], images: int) -> dict[str, np.ndarray]:
    """The arrays of our state from the seed's; what it does not count is zero."""
    layers = list(vdna.layers)

    def all_layers(prefix: str, dtype: str) -> np.ndarray:
        return np.concatenate([arrays[f"{prefix}{layer}"] for layer in layers]).astype(dtype)

    state = vdna.state()
    if vdna.has(Histogram):
        state["histogram"] = all_layers("", "uint64")
    elif vdna.has(Gaussian):
        state["count"][:] = images
        state["mean"], state["m2"] = all_layers("mu-", "float64"), all_layers("var-", "float64") * max(images - 1, 0)
    elif vdna.has(ActivationRanges):
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
