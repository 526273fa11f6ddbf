"""Reading and writing the FID statistics of pytorch-fid and clean-fid: `NAME.npz` with the arrays `mu` and `sigma`.

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
from distributions.spec import UNSTATED
from pipeline.errors import LayerUserError, UserError
from pipeline.formats.datasets import MAX_NUMBER
from pipeline.formats.manifests import NAME
from pipeline.formats.vdna_files import covariance_fault, npz_array, refuse_unusual
from pipeline.storage.disk import expand_home

EXTRACTOR, LAYER = "inception", "block_3"
MAX_FID_NEURONS = 1 << 13


def write(vdna: VDNA, path: Path, layer: str = LAYER) -> Path:
    """Write the mean and covariance (float64) of a layer, and return the path of the file.

    `path` gets the ending `.npz` if it has another. Raises `UserError` if the VDNA has no `layer-gaussian` or not this
    layer, or if its samples differ from those of FID files.
    """
    if not vdna.has("layer-gaussian"):
        raise UserError(f"--format fid needs layer-gaussian; this VDNA has {', '.join(vdna.distributions)}")
    if layer not in vdna.layers:
        raise LayerUserError(f"--layer {layer}: this VDNA has {', '.join(vdna.layers)}")
    refuse_unusual(vdna, "layer-gaussian")
    if not path.name:
        raise UserError(f"{path}: give the name of a file")
    mean, covariance = vdna.layer_gaussian(layer)
    packed = io.BytesIO()
    np.savez(packed, mu=mean, sigma=covariance)
    path = expand_home(path)
    path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed.getvalue())
    return path


def read(path: Path, images: int, extractor: str = EXTRACTOR, layer: str = LAYER) -> VDNA:
    """Read FID statistics as a VDNA with the Gaussian of one layer.

    The file does not state the number of `images`, the network or the preprocessing. The VDNA can be compared with all
    VDNAs of `extractor`. Raises `UserError` if the file is not one of FID statistics, or an argument is out of range.
    """
    try:
        with zipfile.ZipFile(expand_home(path)) as archive:
            mean = npz_array(archive, "mu", max_bytes=8 * MAX_FID_NEURONS + 1024)
            covariance = npz_array(archive, "sigma", mean.shape * 2) if mean.ndim == 1 else mean
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # the npz reader can raise any exception
        raise UserError(f"{path.name}: no FID statistics, an .npz with mu and sigma ({str(error)[:200]})") from None
    if mean.ndim != 1 or not 1 <= len(mean) <= MAX_FID_NEURONS:
        raise UserError(f"{path.name}: mu has the shape {mean.shape}, not one of neurons")
    if not 2 <= images <= MAX_NUMBER:
        raise UserError(f"--images {images}: statistics are of at least 2 images, and not of that many")
    if not NAME.fullmatch(extractor) or not layer.isprintable() or not layer:
        raise UserError(f"--extractor {extractor} --layer {layer!r}: give the names of an extractor and of its layer")
    covariance = covariance.astype(np.float64)
    if max(np.abs(mean).max(), np.abs(covariance).max()) > np.finfo(np.float32).max:
        raise UserError(f"{path.name}: mu and sigma are not the numbers of a network")
    if fault := covariance_fault(covariance):
        raise UserError(f"{path.name}: sigma {fault}")
    spec = Spec(extractor, UNSTATED, UNSTATED, UNSTATED, UNSTATED, {layer: len(mean)}, ("layer-gaussian",))
    vdna = VDNA(spec)
    gaussians = vdna.find(LayerGaussian)
    gaussians.count[layer].fill_(images)
    gaussians.mean[layer] = torch.from_numpy(mean.astype(np.float64))
    gaussians.comoment[layer] = torch.from_numpy((covariance + covariance.T) / 2 * (images - 1))
    vdna.ledger = Ledger([ShardRecord(str(path), counted=images)])
    return vdna
