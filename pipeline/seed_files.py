"""The seed library's files, `NAME.json` beside `NAME.npz`: written so that it loads them, read as VDNAs.

    write(vdna, Path("out/digits"), "histogram-1000")      # out/digits.json, out/digits.npz
    read(Path("out/digits"), ranges)                       # a VDNA of that one distribution

The formats are those of vdna 0.1.1.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distributions import VDNA, ActivationRanges, Gaussian, Histogram, LayerGaussian, Ledger, Ranges, ShardRecord, Spec
from distributions.vdna import bins_of
from pipeline.errors import UserError

SEED_VERSION = "0.1.1"
MOST_COUNTS = 2**31 - 1
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
    """
    base = path.with_suffix("") if path.suffix in (".json", ".npz") else path
    try:
        meta = json.loads(base.with_name(f"{base.name}.json").read_text())
        arrays = dict(_arrays(base.with_name(f"{base.name}.npz"), meta["neurons_list"]))
        name, layers, images = str(meta["name"]), dict(meta["neurons_list"]), int(meta["num_images"])
        extractor, source = str(meta["feature_extractor_name"]), str(meta["data_settings"]["source"])
        if bins_of(name) is not None and ranges is None:
            raise UserError(f"{base.name}: the file does not hold the histogram's axes; give --ranges FILE")
        spec = Spec(extractor, NOT_STATED, NOT_STATED, NOT_STATED, "fp32", layers, (name,), ranges)
        vdna = VDNA(spec)
        vdna.load(_state(vdna, arrays, images), Ledger([ShardRecord(source, counted=images)]))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; a VDNA of the seed is NAME.json beside NAME.npz") from None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{base.name}: not a VDNA of the seed library ({error})") from None
    return vdna


def _arrays(path: Path, layers: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The numeric arrays. The seed stores a pickled `{}` under some keys: those are never opened."""
    with np.load(path, allow_pickle=False) as content:
        keys = [k for layer in layers for k in (*(f"{p}-{layer}" for p in ("mu", "var", "sigma", "min", "max")), layer)]
        beside = {k.partition("-")[2] for k in content.files}
        return {k: content[k] for k in keys if k in content.files and k not in beside}


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
            gaussians.count[layer] = images
            gaussians.mean[layer] = torch.from_numpy(arrays[f"mu-{layer}"].astype(np.float64))
            comoment = arrays[f"sigma-{layer}"].astype(np.float64) * max(images - 1, 0)
            gaussians.comoment[layer] = torch.from_numpy(comoment)
        state = vdna.state()
    return state
