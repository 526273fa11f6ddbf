"""Recipes that are run: what is made, made again, and what a failure stops."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from distributions import ActivationRanges
from extractors import ExtractorConfig, FrozenNetwork
from pipeline import open_catalogue
from pipeline.cli.runs import Runs
from pipeline.stages import context as context_module
from tests.helpers.commands import ROOT, command
from tests.helpers.manifests import kubectl, one, ray_parts
from tests.helpers.recipe_texts import ONE, OTHER, jobs, recipe
from tests.helpers.runs import SMALL


def partials(catalogue: Path) -> dict[str, int]:
    return {str(p.relative_to(catalogue)): p.stat().st_mtime_ns for p in (catalogue / "partials").rglob("*.zip")}


def do(text: str, folder: Path, *given: str) -> list[tuple[str, str]]:
    """Run a recipe in this process; what failed."""
    runs = Runs()
    runs.run_recipe(jobs(recipe(text, folder), f"catalogue={folder / 'catalogue'}", *SMALL, *given))
    return runs.failures


@pytest.mark.usefixtures("in_process")
class TestBatch:
    """Two tiny networks, two small datasets of two tars each."""

    @pytest.fixture
    def text(self, tars: Path) -> str:
        a, b = ([str(tars / f"{i:02d}.tar") for i in pair] for pair in ((0, 1), (2, 3)))
        return f"extractors: [{ONE}, {OTHER}]\ndatasets:\n  - {{name: a, url: {a}}}\n  - {{name: b, url: {b}}}\n"

    @pytest.fixture(autouse=True)
    def builds(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
        """Names of the networks that the driver builds."""
        caplog.set_level(logging.INFO)
        built: list[str] = []
        really = context_module.build  # type: ignore[attr-defined]

        def spy(config: ExtractorConfig) -> FrozenNetwork:
            built.append(config.name)
            return really(config)

        monkeypatch.setattr(context_module, "build", spy)
        return built

    def test_from_nothing_then_again_then_one_more(
        self, text: str, tars: Path, tmp_path: Path, builds: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        assert do(text, tmp_path) == []
        cat = open_catalogue(str(tmp_path / "catalogue"))
        for extractor in ("test_vit", "other"):
            assert cat.distances(extractor, "emd")["dataset"].to_numpy().tolist() == ["a", "b"]
        assert builds == ["test_vit", "other"]
        assert caplog.text.count("from 2 dataset(s)") == 2
        assert caplog.text.count("compare: 2 dataset(s)") == 2
        assert caplog.text.count("publish: ") == 1
        before = partials(tmp_path / "catalogue")

        caplog.clear()
        assert do(text, tmp_path) == []
        assert partials(tmp_path / "catalogue") == before
        assert "task(s) to do" not in caplog.text
        assert caplog.text.count("is complete, nothing to do") == 4

        caplog.clear()
        assert do(f"{text}  - {{name: c, url: {tars / '04.tar'}}}\n", tmp_path) == []
        after = partials(tmp_path / "catalogue")
        assert {name: at for name, at in after.items() if name in before} == before
        assert len(after) == len(before) + 2  # its one tar, for each network: the axes are those there were
        assert caplog.text.count("extracting c: 1 of 1 task(s) to do") == 2
        assert caplog.text.count("publish: ") == 1
        assert sorted(set(open_catalogue(str(tmp_path / "catalogue")).index()["dataset"])) == ["a", "b", "c"]

    def test_the_axes_are_of_all_datasets_whichever_comes_first(self, text: str, tmp_path: Path) -> None:
        text = text.replace(f", {OTHER}", "")
        for name in "ba":
            assert do(text, tmp_path, f"catalogue_recipe.only=[{name}]") == []
        cat = open_catalogue(str(tmp_path / "catalogue"))
        a, b = (cat.vdna(name, "test_vit").load() for name in "ab")
        both = a.find(ActivationRanges)
        both.merge(b.find(ActivationRanges))
        assert set(cat.index()["ranges"]) == {type(a.spec.ranges).calibrated(both).id}

    def test_one_that_fails_stops_no_other(
        self, text: str, tars: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with tarfile.open(tmp_path / "broken.tar", "w") as tar:
            member = tarfile.TarInfo("0.jpg")
            member.size = 5000
            tar.addfile(member, io.BytesIO(b"\xff\xd8" + bytes(4998)))
        bad = "  - {name: gone, url: /nowhere/*.tar}\n" + f"  - {{name: broken, url: {tmp_path / 'broken.tar'}}}\n"
        gone, broken = do(text.replace(f", {OTHER}", "").replace("datasets:\n", f"datasets:\n{bad}"), tmp_path)
        assert (gone[0], broken[0]) == ("gone, test_vit", "broken, test_vit")
        assert "pattern matches nothing" in gone[1]
        assert "none of 1 task(s) had a usable image" in broken[1]
        assert "calibrate: gone is left out of the axes for good" in caplog.text
        cat = open_catalogue(str(tmp_path / "catalogue"))
        assert cat.distances("test_vit", "emd")["dataset"].to_numpy().tolist() == ["a", "b"]
        assert set(cat.index()["dataset"]) == {"a", "b"}

    def test_a_network_that_cannot_be_stops_no_other(self, text: str, tmp_path: Path) -> None:
        lost = "{extractor: timm, extractor.model: test_vit, extractor.weights: /nowhere.pth, extractor.name: lost}"
        failed = do(text.replace(ONE, lost), tmp_path)
        assert [what for what, _ in failed] == ["lost"]
        assert set(open_catalogue(str(tmp_path / "catalogue")).index()["extractor"]) == {"other"}

    def test_stages_alone(self, text: str, tmp_path: Path, builds: list[str]) -> None:
        text = text.replace(f", {OTHER}", "")
        assert do(text, tmp_path, "stages=[plan,calibrate,extract,reduce]") == []
        assert not (tmp_path / "catalogue" / "distances").exists()
        assert builds == ["test_vit"]
        assert do(text, tmp_path, "stages=[compare,publish]") == []
        assert builds == ["test_vit"]
        assert (tmp_path / "catalogue" / "site" / "index.html").exists()
        ((what, why),) = do(f"{text}  - {{name: c, url: c.tar}}\n", tmp_path, "stages=[compare]")
        assert what == "c, test_vit"
        assert "no plan for dataset c" in why


@pytest.mark.usefixtures("shared_ray")
def test_the_command(tmp_path: Path) -> None:
    """A recipe and a dataset of one's own, one that fails: the table, exit code 2; and what `--help` lists."""
    for group in ("catalogue_recipe", "dataset", "pictures"):
        (tmp_path / group).mkdir()
    for i in range(4):
        Image.linear_gradient("L").rotate(30 * i).convert("RGB").save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "dataset" / "own.yaml").write_text("name: own\nurl: pictures\n")
    (tmp_path / "catalogue_recipe" / "mine.yaml").write_text(
        f"extractors: [{ONE}]\ndatasets: [own, {{name: gone, url: /nowhere}}]\nsettings: {{catalogue: made}}\n"
    )
    done = command("--config-dir", str(tmp_path), "catalogue_recipe=mine", *SMALL, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: gone, test_vit: dataset.url=/nowhere: nothing is there" in done.stderr
    assert "1 failed" in done.stdout
    assert set(open_catalogue(str(tmp_path / "made")).index()["dataset"]) == {"own"}
    shown = command("--config-dir", str(tmp_path), "--help", cwd=tmp_path)
    assert "catalogue_recipe: clip_benchmark, demo, mine, reference" in shown.stdout
    wrong = command("--config-dir", str(tmp_path), "catalogue_recipe=min", cwd=tmp_path)
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
    assert "no such recipe; there are clip_benchmark, demo, mine, reference" in wrong.stderr


def test_a_nightly_recipe_as_the_guide_says(tmp_path: Path) -> None:
    """docs/cluster.md: a patch of the entrypoint and of where the ConfigMap is mounted."""
    at = "/spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/volumeMounts/0/mountPath"
    assert f"`{at}`" in (ROOT / "docs" / "cluster.md").read_text()
    patches = [
        {"op": "replace", "path": "/spec/entrypoint", "value": "python -m pipeline.run catalogue_recipe=nightly"},
        {"op": "replace", "path": at, "value": "/etc/vdna/catalogue_recipe"},
    ]
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    ours = tmp_path / "k8s" / "overlays" / "ours"
    ours.mkdir()
    patch = {"target": {"kind": "RayJob"}, "patch": json.dumps(patches)}
    (ours / "kustomization.yaml").write_text(json.dumps({"resources": ["../gpu"], "patches": [patch]}))
    head = ray_parts(one(kubectl(ours), "RayJob"))["head"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    (volume,) = [v for v in head["volumes"] if v["name"] == mounts["/etc/vdna/catalogue_recipe"]]
    assert volume["configMap"] == {"name": "vdna-experiment"}
