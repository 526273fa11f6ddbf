"""A VDNA in the form of the `vdna` library: one distribution as tensors by layer, with its files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distributions.spec import bins_of
from pipeline.errors import UserError
from pipeline.formats import vdna_files
from pipeline.storage import hub

Distribution = torch.Tensor | dict[str, torch.Tensor]


@dataclass
class DataSettings:
    """The images of a VDNA, as in the files of `vdna`."""

    source: Any = "NotFilled"
    crop_to_square_pre_resize: str = "none"
    resize_mode: str = "clean"
    custom_fn_resize: Any = None
    custom_np_image_tranform: Any = None
    custom_pil_image_tranform: Any = None
    shuffle_files: bool = True
    num_images: int = -1


@dataclass
class ExtractionSettings:
    """How the images were measured, as in the files of `vdna`."""

    average_feats_spatially: bool = False
    accumulate_spatial_feats_in_hist: bool = False
    accumulate_sample_feats_in_hist: bool = False
    keep_only_min_max: bool = False
    normalise_feats: bool = False
    range_scale_for_norm_params: float = 1.2
    hist_range: list[float] = field(default_factory=lambda: [-1.0, 1.0])
    hist_nb_bins: int = 0
    hist_channel_batch_size: int = 10
    num_workers: int = 12
    batch_size: int = 64
    device: str = "cuda:0"
    description: str = ""
    verbose: bool = True
    n_sample_images: int = 10
    sample_images_folder: str = "sample_images"
    seed: int = 0
    hub_repo: str = "bramtoula/visual-dna-models"


class VDNA:
    """One distribution of a set of images.

    `data` has, by layer, the counts of a histogram, (neurons, bins) int64; or `{"mu", "var"}` float32,
    `{"mu", "sigma"}` float64 or `{"min", "max"}` float32.
    """

    def __init__(
        self,
        name: str,
        extractor: str,
        layers: Mapping[str, int],
        images: int,
        arrays: Mapping[str, np.ndarray],
        device: str,
    ) -> None:
        bins = bins_of(name)
        self.name = name
        self.type = "histogram" if bins else name
        if bins:
            self.hist_nb_bins = bins
        self.feature_extractor_name = extractor
        self.neurons_list = dict(layers)
        self.num_images = images
        self.device = device
        self.data: dict[str, Any] = {layer: _layer_of(arrays, name, layer, device) for layer in layers}
        self.data_settings_used = DataSettings()
        self.extraction_settings_used = ExtractionSettings()
        self.loaded_from_path = "NotLoaded"

    def save(self, file_path: str | Path) -> None:
        """Write `file_path.json` and `file_path.npz`. The part after the last dot of the name is dropped."""
        data = dict(vars(self.data_settings_used))
        if isinstance(data["source"], list) and any(isinstance(item, np.ndarray) for item in data["source"]):
            data["source"] = "Provided NumPy Arrays - not saved in metadata"
            self.data_settings_used.source = data["source"]
        metadata = {
            "time_of_compute": datetime.now().strftime("%I:%M%p on %B %d, %Y"),
            "vdna_version": vdna_files.VDNA_VERSION,
            "distribution": {"hist_nb_bins": self.hist_nb_bins} if self.type == "histogram" else {},
            "type": self.type,
            "name": self.name,
            "data_settings": data,
            "extraction_settings": vars(self.extraction_settings_used),
            "num_images": self.num_images,
            "feature_extractor_name": self.feature_extractor_name,
            "neurons_list": self.neurons_list,
        }
        arrays: dict[str, np.ndarray] = {}
        for layer, values in self.data.items():
            if isinstance(values, torch.Tensor):
                arrays[layer] = vdna_files.as_int32(layer, values.cpu().numpy())
            else:
                arrays |= {f"{key}-{layer}": value.cpu().numpy() for key, value in values.items()}
        vdna_files.store(Path(file_path).with_suffix(""), metadata, arrays)

    def get_neuron_dist(self, layer_name: str, neuron_idx: int) -> Distribution:
        """The histogram of a neuron, (1, bins), or its parameters by name."""
        values = self.data[layer_name]
        if isinstance(values, torch.Tensor):
            return values[neuron_idx].reshape(1, -1)
        return {k: v[neuron_idx, neuron_idx] if k == "sigma" else v[neuron_idx] for k, v in values.items()}

    def get_all_neurons_in_layer_dist(self, layer_name: str) -> Distribution:
        """The histograms of a layer, (neurons, bins), or its parameters by name."""
        values = self.data[layer_name]
        return values if isinstance(values, torch.Tensor) else dict(values)

    def get_all_neurons_dists(self) -> Any:
        """The histograms or parameters of all neurons in network order. Layer Gaussians are returned by layer."""
        layers = list(self.data.values())
        if self.type == "histogram":
            return torch.cat(layers)
        if self.type == "layer-gaussian":
            return self.data
        return {key: torch.cat([layer[key] for layer in layers]) for key in layers[0]}


def _layer_of(arrays: Mapping[str, np.ndarray], name: str, layer: str, device: str) -> Distribution:
    if bins_of(name):
        return torch.from_numpy(arrays[layer].astype(np.int64)).to(device)
    kinds = vdna_files.KINDS[name]
    return {kind: torch.from_numpy(np.array(arrays[f"{kind}-{layer}"])).to(device) for kind in kinds}


def load_vdna_from_files(file_path: str | Path, device: str = "cpu") -> VDNA:
    """Read a VDNA that this package or the library `vdna` saved.

    Args:
        file_path: The files are `file_path.json` and `file_path.npz`, without what follows a last dot in the name.
        device: Where its tensors are: "cpu", "cuda" or "cuda:0".

    Raises:
        UserError: There are no such files, or they are damaged.
    """
    meta, arrays = vdna_files.load(Path(file_path).with_suffix(""))
    vdna = VDNA(
        meta["name"],
        meta["feature_extractor_name"],
        meta["neurons_list"],
        meta["num_images"],
        arrays,
        at(device),
    )
    try:
        vdna.data_settings_used = DataSettings(**meta["data_settings"])
        vdna.extraction_settings_used = ExtractionSettings(**meta["extraction_settings"])
    except TypeError as error:
        raise UserError(f"{file_path}: not settings of the vdna library ({error})") from None
    vdna.loaded_from_path = str(file_path)
    return vdna


def load_vdna_from_hub(repo_id: str, file_path: str, device: str = "cpu", repo_type: str = "dataset") -> VDNA:
    """Read a VDNA from a repository of the Hugging Face hub.

    Args:
        repo_id: `OWNER/NAME`.
        file_path: The files in it are `file_path.json` and `file_path.npz`.
        device: As for `load_vdna_from_files`.
        repo_type: "dataset" or "model".

    Raises:
        UserError: There are no such files, they are damaged, or the hub cannot be reached.
    """
    kind = "datasets/" if repo_type == "dataset" else ""
    return load_vdna_from_files(f"{hub.local(f'{hub.HUB}{kind}{repo_id}/{file_path}', ('json', 'npz'))}.json", device)


def at(device: str) -> str:
    """The device of a name on this machine: "cpu", with a warning, if there is no GPU."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise UserError(f"device={device}: allowed are cpu, cuda, cuda:0")
    if kind == "cuda" and not torch.cuda.is_available():
        warnings.warn(f"device={device}: there is no GPU here; the processor does it", stacklevel=3)
        return "cpu"
    return str(device)
