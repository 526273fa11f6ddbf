"""`make_vdna`: arrays, lists and mistakes."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from distributions import emd
from pipeline import make_vdna
from pipeline.errors import UserError

OPTIONS = {"extractor": "test_vit", "weights": "random", "threads": 1}
ARRAYS = [np.random.default_rng(i).integers(0, 256, (20, 30 + i, 3), dtype=np.uint8) for i in range(5)]


def test_arrays_are_the_images_that_they_are(tmp_path: Path) -> None:
    for i, array in enumerate(ARRAYS):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    v = make_vdna(ARRAYS, **OPTIONS)
    w = make_vdna(tmp_path, **OPTIONS)
    x = make_vdna([tmp_path / f"{i}.png" for i in range(5)], ranges=v.spec.ranges, **OPTIONS)
    assert v.images == w.images == x.images == 5
    assert v.spec.ranges.id == w.spec.ranges.id
    assert emd(v, w) == emd(v, x) == 0
    assert v.layer_gaussian().keys() == v.layers.keys()


def test_a_batch_is_its_images() -> None:
    batch = np.stack([array[:, :30] for array in ARRAYS])
    assert emd(make_vdna(batch, **OPTIONS), make_vdna(list(batch), **OPTIONS)) == 0


def test_arrays_do_not_stay_in_memory() -> None:
    make_vdna(ARRAYS, **OPTIONS)
    assert not fsspec.filesystem("memory").find("/vdna")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "dataset.url is empty"),
        (None, {}, "give a path, or a list of paths or of arrays, not NoneType"),
        (["a.png", ARRAYS[0]], {}, "not ndarray"),
        ([ARRAYS[0][..., 0]], {}, r"image 0 is uint8\(20, 30\): give"),
        ([np.zeros((0, 5, 3), np.uint8)], {}, r"image 0 is uint8\(0, 5, 3\): give"),
        ([ARRAYS[0] / 255], {}, "image 0 is float64"),
        (
            [ARRAYS[1], ARRAYS[0][..., 0]],
            {},
            r"image 1 is uint8\(20, 30\): give \(h.*; np\.dstack\(\[grey\] \* 3\) has three",
        ),
        ([ARRAYS[0][..., :1]], {}, r"image 0 is uint8\(20, 30, 1\): give .*; np\.dstack"),
        ([np.dstack([ARRAYS[0], ARRAYS[0][..., 0]])], {}, r"image 0 is uint8\(20, 30, 4\): .* drops alpha"),
        ([ARRAYS[0].transpose(2, 0, 1)], {}, r"image 0 is uint8\(3, 20, 30\): .*; array\.transpose\(1, 2, 0\)"),
        ([ARRAYS[0][None]], {}, r"image 0 is uint8\(1, 20, 30, 3\): .*; list\(batch\) are its images"),
        ([ARRAYS[0].astype(np.uint16)], {}, r"image 0 is uint16\(20, 30, 3\): .*; scale its values to 0 … 255"),
        ([ARRAYS[0].astype(np.float32)], {}, r"image 0 is float32\(20, 30, 3\): .*; \(array \* 255\)\.round"),
        (ARRAYS[0], {}, r"source is one uint8\(20, 30, 3\): give a list of arrays; \[image\] is a list of one"),
        (ARRAYS[0][..., 0], {}, r"source is one uint8\(20, 30\): give a list"),
        (np.float32(ARRAYS[0])[None], {}, r"image 0 is float32\(20, 30, 3\)"),
        (
            torch.from_numpy(ARRAYS[0]),
            {},
            r"source is one tensor uint8\(20, 30, 3\): give a list.*tensor\.cpu\(\)\.numpy\(\)",
        ),
        ([torch.zeros(3, 20, 30)], {}, r"image 0 is tensor float32\(3, 20, 30\): .*numpy\(\) is .*transpose.*\* 255"),
        ([Image.fromarray(ARRAYS[0])], {}, r"image 0 is PIL image RGB\(20, 30\): .*convert\('RGB'\)\) is one"),
        ([ARRAYS[0], Image.fromarray(ARRAYS[0]).convert("P")], {}, r"image 1 is PIL image P\(20, 30\)"),
        (Image.fromarray(ARRAYS[0]).convert("CMYK"), {}, r"source is one PIL image CMYK\(20, 30\)"),
        ([ARRAYS[0], None], {}, r"image 1 is NoneType: give"),
        ([ARRAYS[0].tolist()], {}, "not list"),
        (ARRAYS, {"device": "tpu"}, "device=tpu: not here; allowed are auto, cpu"),
        (ARRAYS, {"distributions": "gaussian"}, "give a list, for instance"),
        (ARRAYS, {"distributions": ["gausian"]}, "unknown distribution 'gausian'"),
        (ARRAYS, {"extractor": "nope"}, "extractor=nope: neither one of clip_im_rn50"),
        (ARRAYS, {"sede": 3}, r"extractor\.sede: unknown key; allowed are name"),
        (ARRAYS, {"ranges": "nowhere.json"}, "ranges=nowhere.json"),
        (ARRAYS, {"catalogue": "nowhere"}, "catalogue=nowhere: has no histogram axes for this network"),
    ],
)
def test_mistakes_are_named(source: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_vdna(source, **{**OPTIONS, **options})


def test_no_usable_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing")
    for distributions in (["gaussian"], ["histogram-10"]):
        with pytest.raises(UserError, match=r"no image|cannot calibrate"):
            make_vdna(tmp_path, distributions=distributions, **OPTIONS)
