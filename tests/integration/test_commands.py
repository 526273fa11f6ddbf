"""The commands in a process of their own: what they print, and that mistakes show no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.commands import TINY, command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dataset=demo_digit",), "Could not find 'dataset/demo_digit'"),
        (("dataset=demo_digits", "extractor=resnet"), "Could not find 'extractor/resnet'"),
        (("dataset=demo_digits", "bach_size=3"), "bach_size: unknown key; did you mean batch_size? there are actors"),
        (("dataset=demo_digits", "extractor.sede=3"), "sede"),
        ((), "dataset"),
        (
            ("dataset=images", "dataset.name=mine", "dataset.url=/nowhere"),
            "error: dataset.url=/nowhere: nothing is there",
        ),
        (("dataset=demo_digits", "extractor.weights=/nowhere.pth"), "give its path with extractor.weights=PATH"),
        (("dataset=demo_digits", "layers=[block.*]"), "unknown layer 'block.*' (did you mean blocks."),
    ],
)
def test_mistakes_on_the_command_line_show_no_traceback(
    demo_data: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "demo_data").symlink_to(demo_data)
    done = command(*arguments, cwd=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert message in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.zip"))


@pytest.mark.usefixtures("shared_ray")
def test_several_datasets_share_a_calibration_and_one_that_fails_stops_no_other(
    demo_data: Path, tmp_path: Path
) -> None:
    """The whole job in a process of its own: multirun, a missing dataset, the matrix, the site, and again."""
    (tmp_path / "demo_data").mkdir()
    for name in ("demo_digits", "demo_faces"):
        (tmp_path / "demo_data" / name).symlink_to(demo_data / name)
    arguments = (
        "-m",
        "dataset=demo_digits,demo_textures,demo_faces",
        *TINY,
        "calibration.datasets=[demo_digits,demo_faces]",
    )
    done = command(*arguments, cwd=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert "error: dataset.url=demo_data/demo_textures/*.tar: the pattern matches nothing" in output
    assert "calibrate: ranges" in output
    assert output.count("calibrating on demo_digits, demo_faces: 8 of 8 tasks") == 1
    assert "EMD (bins), test_vit" in output
    assert "FD (squared activation), test_vit" in output
    assert "site: catalogue/site/index.html" in output
    assert (tmp_path / "catalogue" / "site" / "index.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "demo_data"]
    again = command(*arguments, cwd=tmp_path)
    assert "extract: demo_faces is complete, nothing to do" in again.stdout + again.stderr
    listed = command("list", module="pipeline.catalogue", cwd=tmp_path)
    assert listed.returncode == 0
    assert "demo_faces" in listed.stdout
    shown = command("show", "demo_faces", "test_vit", module="pipeline.catalogue", cwd=tmp_path)
    assert json.loads(shown.stdout)["images"] == 200
    near = command("nearest", "demo_faces", "test_vit", module="pipeline.catalogue", cwd=tmp_path)
    assert "demo_digits" in near.stdout
    wrong = command("show", "demo_face", "test_vit", module="pipeline.catalogue", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "error: no VDNA of dataset demo_face" in wrong.stderr


@pytest.mark.usefixtures("shared_ray")
def test_swept_datasets_are_calibrated_together(demo_data: Path, tmp_path: Path) -> None:
    (tmp_path / "demo_data").symlink_to(demo_data)
    done = command("-m", "dataset=demo_digits,demo_faces", *TINY, "stages=[plan,calibrate]", cwd=tmp_path)
    assert "calibrate: ranges" in done.stderr
    assert "from 2 dataset(s)" in done.stderr


def test_a_folder_of_mixed_images(tmp_path: Path) -> None:
    """The command of the README on pictures it has never seen, with the embedded network."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, kind in enumerate(("jpg", "png", "gif", "webp", "tiff")):
        Image.linear_gradient("L").rotate(30 * i).convert("RGB").save(folder / f"{i}.{kind}")
    done = command(
        "dataset=images",
        "dataset.name=mine",
        f"dataset.url={folder}",
        "extractor=efficientnet_lite0",
        f"catalogue={tmp_path / 'somewhere'}",
    )
    assert done.returncode == 0, done.stderr
    shown = command("--catalogue", str(tmp_path / "somewhere"), "show", "mine", module="pipeline.catalogue")
    assert json.loads(shown.stdout)["images"] == 5


def test_help_lists_the_choices() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "dino_vit_base, dino_vit_small, dinov2_vit_base" in done.stdout
