"""Recipes: what a file may say, what it becomes, and a batch from end to end."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import shutil
import tarfile
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from PIL import Image

from distributions import ActivationRanges
from extractors import ExtractorConfig, FrozenNetwork
from pipeline import open_catalogue
from pipeline.cli import recipes
from pipeline.cli.runs import Runs
from pipeline.config.arguments import arguments
from pipeline.config.composition import choices, dataset_named
from pipeline.config.networks import CONF
from pipeline.config.settings import Settings
from pipeline.errors import UserError
from pipeline.stages import context as context_module
from tests.helpers.commands import ROOT, command
from tests.helpers.runs import SMALL
from tests.integration.test_k8s import kubectl, one, ray_parts

SHIPPED = sorted(path.stem for path in (CONF / "catalogue_recipe").glob("*.yaml"))
ONE = "{extractor: timm, extractor.model: test_vit, extractor.weights: random}"
OTHER = (
    "{extractor: timm, extractor.model: test_vit, extractor.weights: random, extractor.seed: 1, extractor.name: other}"
)
LOCAL = "datasets: [{name: a, url: a.tar}]\n"


def recipe(text: str, folder: Path) -> recipes.Recipe:
    path = folder / "mine.yaml"
    path.write_text(text)
    return recipes.read("mine", {"mine": path})


def jobs(read: recipes.Recipe, *given: str) -> list[list[Settings]]:
    """What a command line with these keys would do."""
    line = arguments(["catalogue_recipe=mine", *given])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return recipes.settings_of(read, line)


class TestFiles:
    @pytest.mark.parametrize("name", SHIPPED)
    def test_every_shipped_recipe_is_valid(self, name: str) -> None:
        read = recipes.read(name, choices("catalogue_recipe"))
        open_urls = [n for n, d in read.datasets.items() if d["url"] == "???"]
        given = [f"catalogue_recipe.datasets.{n}.url=s3://bucket/{{00..09}}.tar" for n in open_urls]
        made = jobs(read, *given)
        assert [group[0].extractor.name for group in made] == [entry["extractor"] for entry in read.extractors]
        for group in made:
            assert [s.dataset.name for s in group] == list(read.datasets)
            assert all(s.calibration == group[0].calibration for s in group)
            assert all(s.dataset.licence and s.dataset.description for s in group)
        assert open_urls == (["laion_subset"] if name == "reference" else [])

    def test_a_collection_is_a_dataset_for_each(self) -> None:
        (group, _) = jobs(recipes.read("clip_benchmark", choices("catalogue_recipe")))
        assert len(group) == 43
        urls = {s.dataset.name: s.dataset.url for s in group}
        assert urls["wds_vtab-pets"] == "hf://datasets/clip-benchmark/wds_vtab-pets/test/*.tar"
        assert len(group[0].calibration) == 43
        assert group[0].calibration_max_tasks == 1

    def test_braces_of_a_url_stay(self, tmp_path: Path) -> None:
        read = recipe(
            f"extractors: [{ONE}]\ndatasets: [{{each: [x], name: 'w_{{each}}', url: 's3://b/{{each}}/{{00..12}}.tar'}}]",
            tmp_path,
        )
        assert read.datasets["w_x"]["url"] == "s3://b/x/{00..12}.tar"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("extractors: [efficientnet_lite0]\n", "datasets: give a list with one at least"),
            (f"extractors: []\n{LOCAL}", "extractors: give a list with one at least"),
            (f"extractors: efficientnet_lite0\n{LOCAL}", "extractors: give a list"),
            (f"extractor: [x]\n{LOCAL}", "extractor: unknown key; did you mean extractors"),
            (f"extractors: [resnet]\n{LOCAL}", r"extractors\[0\]: no extractor resnet; there are clip_im_rn50"),
            (f"extractors: [{{extractor.model: x}}]\n{LOCAL}", r"extractors\[0\]: give a name of conf/extractor"),
            (
                f"extractors: [{{extractor: timm, modle: x}}]\n{LOCAL}",
                r"extractors\[0\]\.modle: unknown key",
            ),
            (
                f"VGG\n{LOCAL}settings: {{max_bad: 1}}",
                r"settings\.max_bad: unknown key; did you mean max_b",
            ),
            (f"VGG\n{LOCAL}settings: {{dataset.url: x}}", r"settings\.dataset\.url: unknown key"),
            (f"VGG\n{LOCAL}settings: [1]", r"settings: give keys and values"),
            (
                f"VGG\n{LOCAL}calibration: {{datasets: [b]}}",
                r"calibration\.datasets: no dataset b here; .* a",
            ),
            (f"VGG\n{LOCAL}calibration: {{datasets: a}}", r"calibration\.datasets: give a list"),
            (f"VGG\n{LOCAL}calibration: {{tasks: 3}}", r"calibration\.tasks: unknown key"),
            ("VGG\ndatasets: [demo_digit]", r"datasets\[0\]: no dataset demo_digit in conf/dataset"),
            ("VGG\ndatasets: [images]", r"datasets\[0\]: no dataset images"),
            ("VGG\ndatasets: [3]", r"datasets\[0\]: give keys and values"),
            ("VGG\ndatasets: [{url: x}]", r"datasets\[0\]: dataset\.name is not set"),
            ("VGG\ndatasets: [{name: a/b, url: x}]", r"datasets\[0\]: dataset\.name=a/b: use letters"),
            (
                "VGG\ndatasets: [{name: a, uri: x}]",
                r"datasets\[0\]\.uri: unknown key; did you mean url",
            ),
            ("VGG\ndatasets: [{name: a, url: {b: c}}]", r"datasets\[0\]\.url: give a path"),
            (
                "VGG\ndatasets: [{name: a, url: x, licence: [y]}]",
                r"datasets\[0\]\.licence: give a text",
            ),
            (
                "VGG\ndatasets: [{name: a, url: x, storage: y}]",
                r"datasets\[0\]: dataset\.storage=y: give",
            ),
            (
                "VGG\ndatasets: [{name: a, each: x, url: x}]",
                r"datasets\[0\]\.each: give a list of names",
            ),
            (
                "VGG\ndatasets: [{name: a, each: [x], url: x}]",
                r"datasets\[0\]\.name: \{each\} has to be",
            ),
            (f"VGG\n{LOCAL}  - {{name: a}}", "cannot be read: "),
            ("VGG\ndatasets: [{name: a, url: x}, {name: a, url: y}]", "datasets: a is there twice"),
            ("- a", "it: give keys and values; the keys are description, extractors"),
            (
                "VGG\ndatasets: [{name: a, url: '${oc.env:NOT_THERE_AT_ALL}'}]",
                "cannot be read: .*NOT_THERE",
            ),
        ],
    )
    def test_mistakes_name_file_and_key(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(UserError, match=rf"mine\.yaml: {message}") as caught:
            recipe(text.replace("VGG", "extractors: [vgg16]"), tmp_path)
        assert "\n" not in str(caught.value)

    def test_an_unknown_recipe_names_those_there_are(self) -> None:
        with pytest.raises(
            UserError, match="catalogue_recipe=dmo: no such recipe; there are clip_benchmark, demo, ref"
        ):
            recipes.read("dmo", choices("catalogue_recipe"))


class TestCommandLine:
    @pytest.fixture
    def two(self, tmp_path: Path) -> recipes.Recipe:
        return recipe(
            f"extractors: [{{extractor: dino_vit_base, batch_size: 4, precision: bf16}}, {OTHER}]\n"
            "datasets: [{name: a, url: a.tar}, {name: b, url: '???'}, {name: 2024.c, url: [c.tar, d.tar]}]\n"
            "calibration: {max_tasks: 2}\n"
            "settings: {batch_size: 8, max_bad_fraction: 0.5, positions: {gaussian: all}, storage: {anon: true}}\n",
            tmp_path,
        )

    def test_the_command_line_goes_before_the_extractor_s_keys_and_these_before_the_settings(
        self, two: recipes.Recipe, caplog: pytest.LogCaptureFixture
    ) -> None:
        dino, other = jobs(two)
        assert [s.dataset.name for s in dino] == ["a", "2024.c"]
        assert "b is left out: it has no url in mine.yaml; give 'catalogue_recipe.datasets.b.url=URL'" in caplog.text
        assert (dino[0].batch_size, dino[0].extractor.precision, dino[0].max_bad_fraction) == (4, "bf16", 0.5)
        assert (other[1].batch_size, other[1].extractor.precision, other[1].extractor.seed) == (8, "fp32", 1)
        assert (other[1].dataset.url, other[1].calibration_max_tasks) == (("c.tar", "d.tar"), 2)
        assert (dino[0].positions, dino[0].storage) == ({"gaussian": "all"}, {"anon": True})
        given = ("batch_size=2", "calibration.max_tasks=5", "positions={gaussian: mean}", "catalogue=s3://x/{y}=z")
        for group in jobs(two, *given):
            assert {(s.batch_size, s.calibration_max_tasks) for s in group} == {(2, 5)}
            assert (group[0].positions, group[0].catalogue) == ({}, "s3://x/{y}=z")

    def test_a_url_is_given_and_some_datasets_are_chosen(self, two: recipes.Recipe) -> None:
        url = "s3://b/{00..12}.tar?x=1,2&y=${z}"
        given = (f"catalogue_recipe.datasets.b.url={url}", "catalogue_recipe.datasets.2024.c.url=e.tar")
        group, _ = jobs(two, *given)
        assert [s.dataset.url for s in group] == ["a.tar", url, "e.tar"]
        assert [d.name for d in group[0].calibration] == ["a", "b", "2024.c"]
        group, _ = jobs(two, "catalogue_recipe.only=[2024.c]")
        assert [s.dataset.name for s in group] == ["2024.c"]
        assert [d.name for d in group[0].calibration] == ["a", "2024.c"]  # the axes are the same as of a whole run
        group, _ = jobs(two, "catalogue_recipe.only=a", "calibration.datasets=[2024.c]")
        assert [d.name for d in group[0].calibration] == ["2024.c"]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("catalogue_recipe.only=[b]", r"only: b cannot be measured, it has no url.*datasets\.b\.url=URL"),
            ("catalogue_recipe.only=[x]", r"catalogue_recipe\.only: no dataset x in .*mine\.yaml; there are a, b"),
            ("catalogue_recipe.datasets.x.url=y", r"catalogue_recipe\.datasets: no dataset x in .*; there are a, b"),
            ("catalogue_recipe.datasets.b.licence=y", r"of a recipe's dataset its url can be given"),
            ("calibration.datasets=[demo_digits]", r"calibration\.datasets: no dataset demo_digits in .*mine\.yaml"),
            ("calibration.datasets=[b]", r"calibration\.datasets: b of .*mine\.yaml has no url"),
            ("max_bad_fraction=2", r"max_bad_fraction=2: must be a number"),
            ("dataset=demo_digits", r"dataset=demo_digits: leave it out, .*catalogue_recipe\.only=\[NAME,NAME\]"),
            ("dataset.url=x", r"dataset\.url=x: leave it out"),
            ("extractor=vgg16", r"extractor=vgg16: leave it out"),
            ("-m", r"-m: leave it out"),
        ],
    )
    def test_mistakes(self, two: recipes.Recipe, given: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            jobs(two, given)

    def test_a_recipe_without_a_name(self) -> None:
        with pytest.raises(UserError, match=r"which recipe\? add catalogue_recipe=NAME"):
            arguments(["catalogue_recipe.only=[a]"])

    @pytest.mark.parametrize(
        ("extractors", "message"),
        [
            (f"{ONE}, {ONE}", "extractors: two are called test_vit; give one another extractor.name"),
            ("timm", "with extractor timm: extractor.model is not set"),
            ("{extractor: vgg16, extractor.sede: 1}", "with extractor vgg16: extractor.sede: unknown key"),
        ],
    )
    def test_extractors_that_cannot_be(self, tmp_path: Path, extractors: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            jobs(recipe(f"extractors: [{extractors}]\n{LOCAL}", tmp_path))


def partials(catalogue: Path) -> dict[str, int]:
    return {str(p.relative_to(catalogue)): p.stat().st_mtime_ns for p in (catalogue / "partials").rglob("*.zip")}


def do(text: str, folder: Path, *given: str) -> list[tuple[str, str]]:
    """Run a recipe in this process; what failed."""
    runs = Runs()
    runs.batch(jobs(recipe(text, folder), f"catalogue={folder / 'catalogue'}", *SMALL, *given))
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
        really = context_module.build

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


def test_datasets_are_equal_to_those_of_a_plain_command() -> None:
    (group,) = jobs(recipes.read("demo", choices("catalogue_recipe")))
    assert [s.dataset for s in group] == [dataset_named(s.dataset.name) for s in group]


def test_the_readme_s_recipe_is_there() -> None:
    """As it is typed; tests/unit/pipeline/test_cli.py reads the other commands."""
    (line,) = re.findall(r"^python -m pipeline.run (catalogue_recipe=.*)$", (ROOT / "README.md").read_text(), re.M)
    name, *given = shlex.split(line)
    group, *_ = jobs(recipes.read(name.partition("=")[2], choices("catalogue_recipe")), *given)
    assert group[0].pool.actors == 8


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
