"""Every example of the README and the documentation runs; those of the docstrings are in `test_docstrings.py`.

Fenced blocks of Python run as they are, one after the other on a page, in a folder with a small catalogue and some
pictures. Command lines are run where that takes no network and no minutes, else they are parsed as the command parses
them; programs that are neither are named here with the reason. CONTRIBUTING.md is followed, file by file, in a copy.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from distributions import VDNA, ShardRecord, Spec
from pipeline import make_vdna
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from pipeline.cli import catalogue, extractors, recipes
from pipeline.config.arguments import arguments, for_hydra
from pipeline.config.composition import read
from pipeline.config.networks import CONF, named_extractor
from tests.helpers.synthetic import compared

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```", re.M | re.S)
PRELUDES = {"docs/extractors.md": "from pipeline import make_vdna, open_catalogue\nfrom distributions import emd, fd"}
"""What a page's examples take for granted."""
PROGRAMS = {"make", "pip", "python", "vdna-catalogue"}
ELSEWHERE = {
    "docker": "needs a container service",
    "helm": "needs a cluster",
    "kubectl": "needs a cluster; tests of k8s/ render its manifests",
}
"""Programs whose command lines are not looked at, and why."""
STANDS_FOR = {"URL": "catalogue", "NEAREST": "demo_faces", "DATASET": "demo_faces"}
ASK = {"list", "show", "nearest", "compare", "images", "verify", "export", "ranges"}
"""Commands of the catalogue that are run; `publish` and `import` need what is not there, and are parsed."""
BUILT = {"timm:resnet18"}
ADDED = {"mobilenet_v3_small"}
"""Extractors that `show` is asked for in the tests, and that CONTRIBUTING.md adds."""
REMOTE = ("s3://", "https://", "hf:")


class Block(NamedTuple):
    page: str
    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    name = page.relative_to(ROOT).as_posix()
    matches = FENCE.findall(page.read_text())
    return [Block(name, language, rest.strip(), text) for language, rest, text in matches]


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages and not block.title]


def pictures(folder: Path, number: int, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    folder.mkdir()
    for index in range(number):
        pixels = generator.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(folder / f"{index}.png")
    return folder


def store_vdna(store: Store, vdna: VDNA, name: str) -> None:
    facts = {"url": name, "description": "", "licence": "", "extractor_licence": "", "fingerprint": "0" * 64}
    store.put_vdna(vdna, name, {**facts, "provenance": {"program": "tests"}})


@cache
def made(base: Path) -> Path:
    """A folder with `photos/` and `catalogue/`: two datasets by `inception`, and two by the default extractor."""
    folder = base / "examples"
    folder.mkdir()
    store, axes = Store(str(folder / "catalogue")), None
    spec = Spec("inception", "a", "w", "clean.2-299-none-mean0-std1", "fp32", {"block_3": 4}, ("layer-gaussian",))
    for name in ("photos", "cifar10"):
        small = VDNA(spec)
        small.update("block_3", torch.randn(6, 1, 4))
        small.ledger.add(ShardRecord(name, size=1, counted=6, skipped={}))
        store_vdna(store, small, name)
    compared(store, spec)
    pictures(folder / "photos", 2, 1)
    for seed, name in enumerate(("demo_faces", "demo_digits", "mine"), start=2):
        vdna = make_vdna(pictures(folder / name, 3, seed), ranges=axes, threads=1)
        axes = vdna.spec.ranges
        store_vdna(store, vdna, name)
    assert axes is not None
    store.put_ranges(vdna.spec.network_id, axes)
    compared(store, vdna.spec)
    publish(store)
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.getbasetemp())


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("VDNA_CACHE", str(place / "cache"))
    return place


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=str)
def test_python(page: Path, here: Path) -> None:
    names: dict[str, object] = {"__name__": "example"}
    name = page.relative_to(ROOT).as_posix()
    exec(PRELUDES.get(name, ""), names)
    for block in blocks(page):
        if block.language == "python" and not block.title:
            exec(compile(block.text, f"{name}: {block.text.splitlines()[0]}", "exec"), names)


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=lambda block: f"{block.page}: {block.text[:20]!r}")
def test_yaml(block: Block) -> None:
    assert yaml.safe_load(block.text)


def command_lines() -> Iterator[tuple[str, list[str]]]:
    for block in all_blocks("", "sh", "bash"):
        if not is_drawing(block):
            lines = block.text.replace("\\\n", " ").splitlines()
            words = [shlex.split(line, comments=True) for line in lines]
            yield from ((block.page, line) for line in words if line)


def is_drawing(block: Block) -> bool:
    """Whether a block is a diagram or a tree of files: no line of it calls a program."""
    return not any(line.split(" ")[0] in {*PROGRAMS, *ELSEWHERE} for line in block.text.splitlines())


LINES = list(command_lines())


def test_the_blocks_are_found() -> None:
    assert {words[0] for _, words in LINES} >= PROGRAMS
    assert len(LINES) > 20
    drawings = [block for block in all_blocks("") if is_drawing(block)]
    assert len(drawings) >= 2
    assert all("    " in block.text or "──►" in block.text for block in drawings)  # columns, or arrows


@pytest.mark.parametrize(
    ("page", "words"), LINES, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_command_line(page: str, words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *rest = [STANDS_FOR.get(word, word) for word in words]
    if program in ELSEWHERE:
        return
    if program == "make":
        subprocess.run(["make", "-n", *rest], cwd=ROOT, check=True, capture_output=True)
    elif program == "pip":
        assert rest[0] == "install"
        extras = set(re.findall(r"[a-z]+", " ".join(re.findall(r"\[(.*?)\]", rest[1]))))
        assert extras <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    elif program == "vdna-catalogue" or rest[:2] == ["-m", "pipeline.catalogue"]:
        given = rest if program == "vdna-catalogue" else rest[2:]
        parsed = catalogue._parser().parse_args(given)
        if parsed.command in ASK and not any(word.startswith(REMOTE) for word in given):
            assert catalogue.main(given) == (0 if can_answer(parsed.command, given) else 2)
    elif rest[:2] == ["-m", "pipeline.extractors"]:
        name = rest[-1] if "--all" not in rest else rest[-2]
        if rest[2] == "list" or name in BUILT:
            assert extractors.main(rest[2:]) == 0
        else:  # each takes some seconds to build
            assert rest[2] == "show"
            assert name in ADDED or named_extractor(name, weights="random")
    elif rest[:2] == ["-m", "pipeline.run"]:
        runs(rest[2:], monkeypatch)
    else:
        pytest.fail(f"{page}: nobody knows how to try {' '.join(words)}")


def can_answer(command: str, given: list[str]) -> bool:
    """Whether the catalogue of these tests can answer: it has no files of other programs."""
    return not (command == "export" and "histogram-1000" in given)


def runs(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose and check the settings of each run that a command line stands for."""
    checked = for_hydra(arguments(given))
    overrides = [word for word in checked if not word.startswith("-")]
    several = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)[0]
    assert len(several) == 1 or {"-m", "--multirun"} & set(given)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for each in several:
            cfg = compose("config", overrides=list(each))
            if cfg.catalogue_recipe.name is None:
                read(cfg)
            else:
                folder = {path.stem: path for path in (CONF / "catalogue_recipe").glob("*.yaml")}
                assert recipes.read(cfg.catalogue_recipe.name, folder)


# -- CONTRIBUTING.md --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which everything was done that CONTRIBUTING.md says."""
    copy = tmp_path_factory.mktemp("contributed")
    for name in ("distributions", "extractors", "pipeline", "conf", "tests"):  # with the loops that Numba has compiled
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("site"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for block in blocks(ROOT / "CONTRIBUTING.md"):
        if title := re.fullmatch(r'title="(.+)"', block.title):
            path = copy / title[1]
            path.write_text(changed(path.read_text(), block.text) if block.language == "diff" else block.text)
    return copy


def changed(text: str, diff: str) -> str:
    """A file's text after a diff; each hunk must be found once, wherever it is."""
    for hunk in re.split(r"^@@\n", diff, flags=re.M):
        old, new = ("".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] != sign) for sign in "+-")
        assert text.count(old) == 1, f"found {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    return text


def in_copy(copy: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_contributing_is_followed(followed: Path) -> None:
    added = ["tests/unit/distributions/test_sparsity.py", "tests/unit/pipeline/test_idx.py"]
    script = """
        import pytest

        assert pytest.main(["-q", "--noconftest", "-p", "no:cacheprovider", *ADDED]) == 0

        import numpy as np
        from pipeline import make_vdna
        from pipeline.cli.runs import OF_DATASET
        from pipeline.config.settings import STAGES
        from pipeline.stages import tell
        import pipeline.cli.extractors as extractors

        assert STAGES.index("tell") == 4 and OF_DATASET[-1] == "tell" and callable(tell.run)
        images = [np.full((32, 32, 3), value, np.uint8) for value in (0, 255)]
        vdna = make_vdna(images, "test_vit", ["sparsity"], weights="random", threads=1)
        assert (vdna.state()["sparsity_total"] > 0).all()
        mean = make_vdna(images, "test_vit", ["sparsity"], weights="random", threads=1, positions={"sparsity": "mean"})
        assert (mean.state()["sparsity_total"] == 2).all()
        assert extractors.main(["show", "mobilenet_v3_small"]) == 0
    """
    output = in_copy(followed, "-c", textwrap.dedent(script).replace("ADDED", str(added)))
    assert int(re.findall(r"(\d+) passed", output)[0]) > 15
    assert "features.0" in output
