"""Make VDNAs with the arguments of the `vdna` library."""

from __future__ import annotations

import glob
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distributions import HistogramAxes
from distributions.spec import bins_of
from extractors import Extractor, build
from pipeline.compat.vdna.vdna import VDNA, DataSettings, ExtractionSettings, at
from pipeline.config.networks import named_extractor
from pipeline.data.decode import BadImage, decode
from pipeline.errors import UserError
from pipeline.formats import vdna_files
from pipeline.measure.make import listed, make_vdna, remedy, shown
from pipeline.storage.disk import expand_home

EXTENSIONS = ("bmp", "jpg", "jpeg", "pgm", "png", "ppm", "tif", "tiff", "webp")
"""File extensions that `vdna` finds in a folder."""


class VDNAProcessor:
    """Makes VDNAs, and keeps the last network for the next VDNA.

    Args:
        ranges: The histogram axes, or a file of them. "published": those published with the extractor.
        **extractor: Keys of the extractor: `weights="random"`, …
    """

    def __init__(self, ranges: HistogramAxes | str | Path = "published", **extractor: Any) -> None:
        self._ranges, self._options = ranges, extractor
        self._kept: tuple[object, Extractor] | None = None

    def make_vdna(
        self,
        source: str | Path | Sequence[str] | Sequence[np.ndarray],
        num_images: int = -1,
        shuffle_files: bool = False,
        feat_extractor_name: str = "mugs_vit_base",
        distribution_name: str = "histogram-1000",
        seed: int = 0,
        batch_size: int = 64,
        device: str = "cuda:0",
        verbose: bool = True,
        num_workers: int = 12,
        save_sample_images: str | Path | None = None,
        n_sample_images: int = 5,
        crop_to_square_pre_resize: str = "none",
    ) -> VDNA:
        """Compute one distribution of a set of images.

        Args:
            source: A folder, an image, a `.txt` of paths, a list of paths, or a list of (height, width, 3) arrays with
                values from 0 to 255.
            num_images: Number of files that are measured. -1: all.
            shuffle_files: Whether these files are drawn with `seed`. Otherwise they are the first files by name.
            feat_extractor_name: A name from conf/extractor.
            distribution_name: `histogram-N`, `gaussian`, `layer-gaussian` or `activation-ranges`.
            seed: Seed of the draw.
            batch_size: Images per batch.
            device: "cpu", "cuda" or "cuda:0". Without a GPU the processor is used, with a warning.
            verbose: Recorded in the VDNA's settings, and not used otherwise.
            num_workers: As `verbose`.
            save_sample_images: A folder for sample pictures, as the network gets them. None: no pictures are written.
            n_sample_images: Number of sample pictures.
            crop_to_square_pre_resize: "none", "center" or "random".

        Returns:
            The VDNA. A file that is no image is left out with a warning.

        Raises:
            UserError: There are no images, or a value is not allowed.
            ExtractorError: The network cannot be built.
        """
        bins = bins_of(distribution_name)
        source = listed(source)
        place = at(device)
        network = self._network(feat_extractor_name, crop_to_square_pre_resize, place)
        images = _images(source, num_images, shuffle_files, seed)
        ranges = self._axes(network) if bins else None
        kind = torch.device(place).type
        made = make_vdna(images, network, [distribution_name], ranges=ranges, batch_size=batch_size, device=kind)
        if skipped := made.ledger.skipped:
            warnings.warn(f"{sum(skipped.values())} files could not be used: {dict(skipped)}", stacklevel=2)
        if bins:  # int32 only in files
            arrays = {layer: made.histogram(layer).astype(np.int64) for layer in made.layers}
        else:
            arrays = vdna_files.arrays_of(made, distribution_name)
        vdna = VDNA(distribution_name, feat_extractor_name, made.layers, made.images, arrays, place)
        vdna.data_settings_used = DataSettings(
            source=_written(source),
            crop_to_square_pre_resize=crop_to_square_pre_resize,
            shuffle_files=shuffle_files,
            num_images=num_images,
        )
        vdna.extraction_settings_used = ExtractionSettings(
            average_feats_spatially="gaussian" in distribution_name,
            accumulate_spatial_feats_in_hist=bool(bins),
            accumulate_sample_feats_in_hist=bool(bins),
            keep_only_min_max=distribution_name == "activation-ranges",
            normalise_feats=bool(bins),
            hist_nb_bins=bins or 0,
            num_workers=num_workers,
            batch_size=batch_size,
            device=place,
            verbose=verbose,
            n_sample_images=n_sample_images,
            seed=seed,
        )
        if save_sample_images is not None:
            _save_samples(network, images, expand_home(save_sample_images), n_sample_images)
        return vdna

    def _network(self, name: str, crop: str, device: str) -> Extractor:
        key = (name, crop, device)
        if self._kept is None or self._kept[0] != key:
            preprocess = {**self._options.get("preprocess", {}), "crop": crop}
            config = named_extractor(name, **{**self._options, "preprocess": preprocess})
            self._kept = (key, build(config, device))
        return self._kept[1]

    def _axes(self, network: Extractor) -> HistogramAxes:
        if isinstance(self._ranges, HistogramAxes):
            return self._ranges
        return vdna_files.read_ranges(str(self._ranges), network.published_ranges)


def _written(source: Any) -> Any:
    """A source in a form for JSON. Arrays stay as they are until the VDNA is saved."""
    if isinstance(source, list | tuple):
        return [str(item) if isinstance(item, Path) else item for item in source]
    return str(source)


def _images(source: Any, num_images: int, shuffle: bool, seed: int) -> Any:
    """The files or arrays to measure: as in `vdna`, the first of the sorted files, or of the shuffled files."""
    files: list[str]
    source = _at_home(source) if isinstance(source, str | Path) else source
    if isinstance(source, list | tuple):
        if any(not isinstance(item, str | Path) for item in source):
            if num_images > 0 or shuffle:
                warnings.warn("num_images and shuffle_files are of files: of arrays all count, in order", stacklevel=3)
            return [_pixels(index, item) for index, item in enumerate(source)]
        files = [_at_home(path) for path in source]
    elif not isinstance(source, str | Path):
        raise UserError(f"source is {shown(source)}: give a path, or a list of paths or of arrays; {remedy(source)}")
    elif Path(source).is_dir():
        # As in `vdna`: links to folders are followed, which Path.glob does not do, and hidden files are left out.
        paths = glob.glob(f"{glob.escape(str(source))}/**/*", recursive=True)  # noqa: PTH207
        files = sorted(path for path in paths if path.rpartition(".")[2].lower() in EXTENSIONS and Path(path).is_file())
    elif str(source).endswith(".txt"):
        base = Path(source).absolute().parent
        files = sorted(
            str(base / _at_home(line.strip())) for line in Path(source).read_text().splitlines() if line.strip()
        )
    else:
        files = [str(source)]
        if num_images > 0 and str(source).rpartition(".")[2].lower() not in EXTENSIONS:
            raise UserError(f"num_images={num_images}: only of a folder, a list or a .txt of images")
    if 0 < num_images < len(files):
        if shuffle:
            random.seed(seed)
            random.shuffle(files)
        files = files[:num_images]
    if not files:
        raise UserError(f"source={source}: there are no images here")
    return files


def _at_home(path: str | Path) -> str:
    """A path with `~` replaced by the user's home folder. A URL is returned unchanged."""
    return str(expand_home(path)) if str(path).startswith("~") else str(path)


def _pixels(index: int, image: Any) -> np.ndarray:
    """The (height, width, 3) uint8 pixels of an array, as `vdna` reads them: values cut to whole numbers, a fourth
    channel dropped. Raises `UserError` for values that `vdna` refuses or misreads: outside 0 to 255, or from 0 to 1."""
    what = f"image {index} is {shown(image)}"
    fits = isinstance(image, np.ndarray) and image.dtype.kind in "uif" and image.ndim == 3 and image.shape[2] in (3, 4)
    if not fits or not image.size:
        raise UserError(f"{what}: give (height, width, 3) arrays of values from 0 to 255; {remedy(image)}")
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        outside = not (low >= 0 and high <= 255)  # true for NaN
        if outside or (high <= 1 and (image != image.astype(np.uint8)).any()):
            raise UserError(f"{what} with values from {low:g} to {high:g}: give values from 0 to 255; {remedy(image)}")
    return np.asarray(image).astype(np.uint8)[..., :3]


def _save_samples(network: Extractor, images: Sequence[Any], folder: Path, count: int) -> None:
    """Write some images, cropped and resized, as `0.png`, `1.png`, … Files that are no image are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (network.preprocess.mean, network.preprocess.std))
    for number, index in enumerate(random.sample(range(len(images)), min(count, len(images)))):
        image = images[index]
        try:
            decoding = network.preprocess.decoding
            picture = image if isinstance(image, np.ndarray) else decode(Path(image).read_bytes(), **decoding)
        except BadImage:
            continue
        pixels = network.preprocess(picture, str(index)).numpy() * std + mean
        Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)).save(
            folder / f"{number}.png"
        )
