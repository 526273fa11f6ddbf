"""Recipes are read, checked and turned into runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli import recipes
from pipeline.config.arguments import arguments
from pipeline.config.composition import choices, dataset_named
from pipeline.config.networks import CONF
from pipeline.errors import UserError
from tests.helpers.commands import ROOT
from tests.helpers.recipe_texts import ONE, OTHER, jobs, recipe

SHIPPED = sorted(path.stem for path in (CONF / "catalogue_recipe").glob("*.yaml"))


LOCAL = "datasets: [{name: a, url: a.tar}]\n"


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


def test_datasets_are_equal_to_those_of_a_plain_command() -> None:
    (group,) = jobs(recipes.read("demo", choices("catalogue_recipe")))
    assert [s.dataset for s in group] == [dataset_named(s.dataset.name) for s in group]


def test_the_readme_s_recipe_is_there() -> None:
    """As it is typed; tests/unit/pipeline/test_settings.py reads the other commands."""
    (line,) = re.findall(r"^python -m pipeline.run (catalogue_recipe=.*)$", (ROOT / "README.md").read_text(), re.M)
    name, *given = shlex.split(line)
    group, *_ = jobs(recipes.read(name.partition("=")[2], choices("catalogue_recipe")), *given)
    assert group[0].pool.actors == 8
