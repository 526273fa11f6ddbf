"""The settings that a command line gives, and the messages about mistakes; every configuration composes."""

from __future__ import annotations

import re
import shlex

import pytest

from extractors.sources import SOURCES
from pipeline.config.arguments import arguments
from pipeline.config.networks import CONF
from pipeline.config.settings import Settings
from pipeline.errors import UserError
from tests.helpers.commands import ROOT, settings

DATASETS = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))


EXTRACTORS = sorted(path.stem for path in (CONF / "extractor").glob("*.yaml"))


NEEDED = {
    "images": ("dataset.name=mine", "dataset.url=photos"),
    "laion_subset": ('dataset.url="s3://bucket/{00000..00009}.tar"',),
    **dict.fromkeys(SOURCES, ("extractor.model=owner/repo/test_vit",)),
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_composes(dataset: str) -> None:
    made = settings(f"dataset={dataset}", *NEEDED.get(dataset, ()))
    assert made.dataset.name == ("mine" if dataset == "images" else dataset)
    assert made.extractor.name == "efficientnet_lite0"


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_every_extractor_composes(extractor: str) -> None:
    made = settings("dataset=demo_digits", f"extractor={extractor}", *NEEDED.get(extractor, ()))
    assert made.extractor.name == ("owner_repo_test_vit" if extractor in SOURCES else extractor)
    assert made.extractor.source == (extractor if extractor in SOURCES else made.extractor.source)
    assert made.extractor.licence or extractor in SOURCES


@pytest.mark.parametrize("cluster", sorted(path.stem for path in (CONF / "cluster").glob("*.yaml")))
def test_every_cluster_composes(cluster: str) -> None:
    assert settings("dataset=demo_digits", f"cluster={cluster}").pool.address == {"local": None, "ray": "auto"}[cluster]


def test_the_interface_that_others_rely_on() -> None:
    made = settings(
        "dataset=images",
        "dataset.name=mine",
        "dataset.url=[a.tar,b.tar]",
        "extractor=dino_vit_base",
        "catalogue=s3://bucket/catalogue",
        "distributions=[histogram-1000,gaussian,layer-gaussian,activation-ranges]",
        "actors=3",
        "batch_size=7",
        "device=cpu",
        "precision=bf16",
        "layers=[blocks.3]",
        "max_bad_fraction=0.5",
        "stages=[reduce,plan]",
    )
    assert made.dataset.url == ("a.tar", "b.tar")
    assert (made.pool.actors, made.batch_size, made.pool.device, made.extractor.precision) == (3, 7, "cpu", "bf16")
    assert made.extractor.layers == ["blocks.3"]
    assert made.stages == ("plan", "reduce")  # always in the order of the pipeline


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("dataset=images",), "dataset.name is not set; give a name"),
        (("dataset=images", "dataset.name=mine"), "dataset.url is not set; give where the images are"),
        (("dataset=laion_subset",), r"dataset\.url is not set.*s3://bucket"),
        (("dataset=images", "dataset.name=a/b", "dataset.url=x"), r"dataset\.name=a/b: use letters"),
        (("dataset=images", "dataset.name=..", "dataset.url=x"), r"dataset\.name=\.\.: use letters"),
        (("dataset=demo_digits", "extractor=timm"), r"extractor\.model is not set"),
        (
            ("dataset=demo_digits", "distributions=[histogram]"),
            "unknown distribution 'histogram'; allowed: histogram-N",
        ),
        (("dataset=demo_digits", "distributions=[gaussian,gaussian]"), "each kind can be asked for once"),
        (("dataset=demo_digits", "distributions=[histogram-10,histogram-20]"), "each kind can be asked for once"),
        (("dataset=demo_digits", "distributions=gaussian"), r"distributions=gaussian: give a list"),
        (("dataset=demo_digits", "stages=[extrct]"), "stages=extrct: allowed are plan, calibrate, extract"),
        (("dataset=demo_digits", "device=gpu"), "device=gpu: allowed are auto, cpu, cuda"),
        (("dataset=demo_digits", "precision=fp8"), "precision=fp8: allowed are fp32, tf32, bf16, fp16"),
        (("dataset=demo_digits", "batch_size=0"), "batch_size=0: must be a whole number, at least 1"),
        (("dataset=demo_digits", "actors=many"), "actors=many: must be a whole number"),
        (("dataset=demo_digits", "max_bad_fraction=2"), "max_bad_fraction=2: must be a number from 0 to 1"),
        (("dataset=demo_digits", "+extractor.foo=1"), r"extractor\.foo: unknown key; allowed are name, model"),
        (("dataset=demo_digits", "extractor.seed=abc"), r"extractor\.seed=abc: must be a whole number"),
        (("dataset=demo_digits", "extractor.preprocess.size=224.5"), r"preprocess\.size=224\.5: must be a whole"),
        (("dataset=demo_digits", "extractor.preprocess.mean=0.5"), r"preprocess\.mean=0\.5: give three numbers"),
        (("dataset=demo_digits", "extractor.preprocess.std=[1,1,0]"), r"preprocess\.std: must not be 0"),
        (("dataset=demo_digits", "layers=[]"), r"layers=\[\]: give default, all, names or patterns"),
        (("dataset=demo_digits", "layers=5"), "layers=5: give default"),
        (("dataset=demo_digits", "storage=abc"), r"storage=abc: give options one by one.*\+storage\.anon=true"),
        (("dataset=demo_digits", "dataset.storage=abc"), r"dataset\.storage=abc: give options"),
        (("dataset=demo_digits", "catalogue=''"), "catalogue is empty"),
        (("dataset=demo_digits", "calibration.max_tasks=0"), "max_tasks=0: must be a whole number"),
        (("dataset=demo_digits", "calibration.datasets=[nope]"), "no dataset nope; there are demo_digits"),
    ],
)
def test_mistakes_name_the_key_and_what_is_allowed(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(*overrides)


@pytest.mark.parametrize(
    "url",
    [
        "s3://b/{00..12}.tar",
        "https://h/x.tar?a=b&c=(d)",
        "a b/*.tar",
        "${y}/x",
        "é/(1)=[2]",
        'quo"te.tar',
        "back\\slash.tar",
        "a,b.tar",
    ],
)
def test_urls_arrive_as_they_are_typed(url: str) -> None:
    [argument] = arguments([f"dataset.url={url}"])
    assert settings("dataset=images", "dataset.name=mine", argument).dataset.url == url


def test_lists_and_quotes_of_ones_own_are_left_alone() -> None:
    for argument in ("dataset.url=[a.tar,b.tar]", "dataset.url='a.tar'", 'dataset.url="a.tar"'):
        assert arguments(["batch_size=1", argument]) == ["batch_size=1", argument]
    assert arguments(["-m", "dataset.url=a,b"]) == ["-m", "dataset.url=a,b"]


def test_names_stay_text() -> None:
    made = settings(*arguments(["dataset=images", "dataset.name=2024_01", "dataset.url=x", "catalogue=/x/my=cat"]))
    assert (made.dataset.name, made.catalogue) == ("2024_01", "/x/my=cat")


def test_a_range_that_the_shell_expanded_is_noticed() -> None:
    with pytest.raises(UserError, match=r"given 2 times.*put it in quotes"):
        arguments(["dataset.url=00.tar", "dataset.url=01.tar"])
    with pytest.raises(UserError, match=r"dataset\.url: of which dataset\? dataset=a,b names several"):
        arguments(["-m", "dataset=a,b", "dataset.url=00.tar"])


def test_the_readme_is_true() -> None:
    """Files and folders of its tree exist, and every `pipeline.run` command it shows composes as it is typed."""
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
    tree = (ROOT / "docs" / "architecture.md").read_text().partition("## What is where")[2]
    files = {path.name for path in ROOT.rglob("*.*") if ".venv" not in path.parts}
    named = re.findall(r"\b\w+\.(?:py|yaml)\b", tree)
    assert len(named) > 20
    assert set(named) <= files
    assert all((ROOT / folder).is_dir() for folder in re.findall(r"^(\w+)/", tree, re.MULTILINE))
    for line in text.splitlines():
        if line.startswith("python -m pipeline.run ") and "catalogue_recipe=" not in line:
            words = [word.partition(",")[0] if word.startswith("dataset=") else word for word in shlex.split(line)[3:]]
            assert isinstance(settings(*arguments([word for word in words if word != "-m"])), Settings), line
