"""FID statistics of pytorch-fid and clean-fid, `NAME.npz` with `mu` and `sigma`: read as a VDNA, and written.

vdna = read(Path("cifar10_train.npz"), images=50_000)
fd(vdna, mine, layer="block_3")           # FID against published statistics
write(mine, Path("mine.npz"))
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from distributions import VDNA, LayerGaussian, Ledger, ShardRecord, Spec
from distributions.vdna import UNSTATED
from pipeline.errors import UserError
from pipeline.seed_files import npz_array

EXTRACTOR, LAYER = "inception", "block_3"
MOST_NEURONS = 1 << 15
ASYMMETRY = 1e-6
"""Of the largest covariance; more is no rounding."""


def write(vdna: VDNA, path: Path, layer: str = LAYER) -> Path:
    """Write a layer's mean and covariance (float64) to `path`, which gets the ending `.npz` if it has none."""
    if not vdna.has(LayerGaussian):
        raise UserError(f"--format fid needs layer-gaussian; this VDNA has {', '.join(vdna.distributions)}")
    if layer not in vdna.layers:
        raise UserError(f"--layer {layer}: this VDNA has {', '.join(vdna.layers)}")
    mean, covariance = vdna.layer_gaussian(layer)
    packed = io.BytesIO()
    np.savez(packed, mu=mean, sigma=covariance)
    path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed.getvalue())
    return path


def read(path: Path, images: int, extractor: str = EXTRACTOR, layer: str = LAYER) -> VDNA:
    """The VDNA, of one layer's Gaussian, in a file of statistics, which does not say of how many `images` it is.

    Nor does it say network and preprocessing: it is comparable with VDNAs of `extractor`. Raises `UserError`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            mean = npz_array(archive, "mu")
            covariance = npz_array(archive, "sigma", mean.shape * 2) if mean.ndim == 1 else mean
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # what reads npz raises anything
        raise UserError(f"{path.name}: no FID statistics, an .npz with mu and sigma ({str(error)[:200]})") from None
    if mean.ndim != 1 or not 1 <= len(mean) <= MOST_NEURONS:
        raise UserError(f"{path.name}: mu has the shape {mean.shape}, not one of neurons")
    if images < 2:
        raise UserError(f"images={images}: statistics are of at least 2 images")
    covariance = covariance.astype(np.float64)
    if (
        not np.abs(covariance - covariance.T).max() <= ASYMMETRY * np.abs(covariance).max()
        or (covariance.diagonal() < 0).any()
    ):
        raise UserError(f"{path.name}: sigma is not a covariance")
    spec = Spec(extractor, UNSTATED, UNSTATED, UNSTATED, "fp32", {layer: len(mean)}, ("layer-gaussian",))
    vdna = VDNA(spec)
    gaussians = vdna.find(LayerGaussian)
    gaussians.count[layer].fill_(images)
    gaussians.mean[layer] = torch.from_numpy(mean.astype(np.float64))
    gaussians.comoment[layer] = torch.from_numpy((covariance + covariance.T) / 2 * (images - 1))
    vdna.ledger = Ledger([ShardRecord(path.name, counted=images)])
    return vdna
