"""Catalogues as consumers see them: what they say, how little is read for an answer, and that the answer is right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from distributions import VDNA, emd, fd
from pipeline import open_catalogue
from pipeline.catalogue import index as published
from pipeline.catalogue.index_schema import FORMAT
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.errors import UserError
from pipeline.storage import cache
from pipeline.storage.folder import ObjectStore
from tests.helpers import synthetic
from tests.helpers.catalogues import DATASETS, website
from tests.helpers.commands import ROOT


def test_the_index_keeps_its_schema(store: Store) -> None:
    folder = ObjectStore(store.url)
    index = published.read(folder)
    assert index is not None
    schema = json.loads(folder.get(f"index/schema-{FORMAT}.json") or b"")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(index, schema)
    assert len(index["vdnas"]) == DATASETS
    assert index["matrices"][0]["members"] == list(range(DATASETS))
    row, spec = index["vdnas"][0], index["specs"][index["vdnas"][0]["spec"]]
    manifest = store.manifests()[0]
    for key in ("dataset", "description", "licence", "images", "skipped", "fingerprint", "digest", "created", "bytes"):
        assert row[key] == manifest[key]
    for key in ("extractor", "weights", "preprocessing", "ranges", "distributions"):
        assert spec[key] == manifest[key]
    assert row["bytes"] > 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**index, "format": 3}, schema)


def test_a_website_is_opened_in_two_requests_and_asked_for_no_more_than_needed(store: Store) -> None:
    with website(Path(store.root)) as (url, asked):
        cat = open_catalogue(url)
        assert sum(asked.values()) == 2
        assert len(cat.index()) == DATASETS
        name, other = cat.index()["dataset"][:2]
        view = cat.vdna(name, "vit_small")
        assert sum(asked.values()) == 3  # its manifest
        assert view.layers == synthetic.LAYERS
        assert view.images > 0
        view.histogram("block_0")
        assert sum(asked.values()) == 5  # the group's metadata, and the chunk
        view.histogram("block_0")
        assert sum(asked.values()) == 5
        cat.nearest(name)
        assert sum(asked.values()) <= 8  # the matrix's manifest, metadata and a chunk
        assert cat.compare(name, other, metrics=["emd"]).overall["emd"] > 0
        assert not any("comoment" in path for path in asked)
        before = asked.total()
        open_catalogue(url).vdna(name, "vit_small").histogram("block_0")
        assert asked.total() == before + 1  # the pointer: the rest is in this machine's cache


def test_what_is_read_is_what_was_stored(store: Store) -> None:
    cat = open_catalogue(store.url)
    for manifest in store.manifests()[:3]:
        view, whole = cat.vdna(manifest["dataset"], "vit_small"), store.get_vdna(manifest)
        for layer in (None, *whole.layers):
            np.testing.assert_array_equal(view.histogram(layer), whole.histogram(layer))
            for mine, expected in (
                (view.gaussian(layer), whole.gaussian(layer)),
                (view.ranges(layer), whole.ranges(layer)),
            ):
                for a, b in zip(mine, expected, strict=True):
                    np.testing.assert_array_equal(a, b)
        for layer in whole.layers:
            for a, b in zip(view.layer_gaussian(layer), whole.layer_gaussian(layer), strict=True):
                np.testing.assert_array_equal(a, b)
        assert view.spec.id == whole.spec.id
        np.testing.assert_array_equal(view.spec.ranges.low, whole.spec.ranges.low)
        assert view.ledger == whole.ledger
        assert view.load().digest() == view.digest() == whole.digest()
        assert view.images == whole.images
        assert emd(view, whole) == 0


class TestVersions:
    def test_new_data_is_a_new_version_and_the_old_stays(self, tmp_path: Path, filled: Callable[..., VDNA]) -> None:
        store, facts = Store(str(tmp_path / "c")), synthetic.facts_of("x", 0)
        old = filled(1)
        for vdna in (old, old, filled(2), filled(3)):
            store.put_vdna(vdna, "mine", facts)
            publish(store)
        cat = open_catalogue(store.url)
        row = published.read(ObjectStore(store.url))["vdnas"][0]
        assert row["version"] == 3
        assert [version["version"] for version in row["versions"]] == [1, 2, 3]
        assert cat.vdna("mine", "net").digest() == filled(3).digest()
        first = cat.vdna("mine", "net", version=1)
        assert first.digest() == row["versions"][0]["digest"] == old.digest()
        assert first.load().digest() == old.digest()
        np.testing.assert_array_equal(first.histogram(), old.histogram())
        with pytest.raises(UserError, match="no version 4; there are 1, 2, 3"):
            cat.vdna("mine", "net", version=4)

    def test_another_description_is_none(self, tmp_path: Path, filled: Callable[..., VDNA]) -> None:
        store = Store(str(tmp_path / "c"))
        manifest = store.put_vdna(filled(1), "mine", synthetic.facts_of("x", 0))
        publish(store)
        store.put_facts(manifest, {"description": "said otherwise"})
        assert publish(store)
        entry = open_catalogue(store.url).manifest("mine", "net")
        assert entry["description"] == "said otherwise"
        assert entry["version"] == 1

    def test_one_is_taken_over_from_a_catalogue_of_before(self, tmp_path: Path, filled: Callable[..., VDNA]) -> None:
        """Format 1 had neither index nor versions nor, at first, hashes: it is read, and gets them when published."""
        store = Store(str(tmp_path / "c"))
        manifest = store.put_vdna(filled(1), "mine", synthetic.facts_of("x", 0))
        new = ("version", "versions", "record", "objects", "bytes", "sources")
        before = {key: value for key, value in manifest.items() if key not in new}
        store.put_json(f"vdnas/mine/net/{manifest['spec']}.json", before)
        shutil.rmtree(tmp_path / "c" / "vdnas" / "mine" / "net" / "versions")
        cat = open_catalogue(store.url)
        assert cat.vdna("mine", "net").histogram("first").shape == (5, 20)
        assert emd(cat.vdna("mine", "net"), filled(1)) == 0
        publish(store)
        assert open_catalogue(store.url).vdna("mine", "net", version=1).digest() == filled(1).digest()
        store.put_vdna(filled(2), "mine", synthetic.facts_of("x", 0))
        publish(store)
        cat = open_catalogue(store.url)
        assert cat.vdna("mine", "net", version=1).digest() == filled(1).digest()
        assert cat.vdna("mine", "net", version=2).digest() == filled(2).digest()


def test_a_server_that_calls_gzip_an_encoding_of_the_way(store: Store) -> None:
    with website(Path(store.url), unpacked_on_the_way=True) as (url, _):
        assert len(open_catalogue(url).index()) == DATASETS


def test_the_cache_forgets_what_rots_and_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [bytes([i]) * 1000 for i in range(10)]
    for i, some in enumerate(data):
        cache.remember(sha256(some).hexdigest(), some)
        assert cache.recall(sha256(some).hexdigest()) == some
        path = next((tmp_path / "cache" / "objects").glob(f"??/{sha256(some).hexdigest()}"))
        os.utime(path, (i, i))
    path.write_bytes(b"rotten")
    assert cache.recall(sha256(data[9]).hexdigest()) is None
    monkeypatch.setattr(cache, "MAX_CACHE_BYTES", 5000)
    cache.tidy()
    assert cache.recall(sha256(data[0]).hexdigest()) is None
    assert cache.recall(sha256(data[8]).hexdigest()) == data[8]


def test_reading_needs_neither_torch_nor_ray_nor_hydra(store: Store) -> None:
    """What is installed without extras is enough to open, look up, compare, and verify."""
    heavy = (
        "torch",
        "ray",
        "hydra",
        "omegaconf",
        "timm",
        "torchvision",
        "open_clip",
        "webdataset",
        "pyarrow",
        "simplejpeg",
    )
    code = f"""
import sys
for name in {heavy!r}: sys.modules[name] = None
import numpy as np
from pipeline import open_catalogue
from pipeline.cli.catalogue import main
cat = open_catalogue({store.url!r})
a, b = cat.index()["dataset"][:2]
found = cat.compare(a, b)
print(found.overall["emd"], found.overall["fd"], found.most(1), cat.nearest(a, k=1).index[0])
cat.nearest(cat.vdna(a, "vit_small"), metric="fd", k=2)
assert len(cat.vdna(a, "vit_small").ledger) == 1
assert main(["--catalogue", {store.url!r}, "list"]) == 0
assert main(["verify", {store.url!r}]) == 0
assert main(["--catalogue", {store.url!r}, "compare", a, b]) == 0
assert main(["--catalogue", {store.url!r}, "nearest", {str(ROOT / "docs")!r}]) == 2
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "this needs torch: pip install '.[images]'" in ended.stderr
    cat = open_catalogue(store.url)
    a, b = cat.index()["dataset"][:2]
    emd_there, fd_there = map(float, ended.stdout.split()[:2])
    assert emd_there == emd(cat.vdna(a, "vit_small"), cat.vdna(b, "vit_small"))
    assert fd_there == pytest.approx(fd(cat.vdna(a, "vit_small"), cat.vdna(b, "vit_small")), rel=1e-8)


def test_a_reader_that_has_seen_enough_is_no_error(store: Store) -> None:
    command = [sys.executable, "-m", "pipeline.catalogue", "--catalogue", store.url, "list"]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False, cwd=ROOT)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_on_the_command_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--catalogue", store.url]
    a, b = open_catalogue(store.url).index()["dataset"][:2]
    assert main([*options, "nearest", a, "-k", "2", "--layers", "norm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dataset\tdistance"
    assert len(lines) == 3
    assert main([*options, "compare", a, b, "-k", "3"]) == 0
    out = capsys.readouterr().out
    assert "all layers" in out
    assert out.index("all layers") < out.index("neuron")
    assert main([*options, "compare", a, b, "--metrics", "emd"]) == 0
    assert capsys.readouterr().out.startswith("layer\temd\n")
    assert main([*options, "show", a, "--version", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    for wrong, words in (
        (["nearest", "nowhere/at/all"], "neither a dataset of this catalogue nor a path"),
        (["compare", a, "nothing"], "neither a dataset of this catalogue nor a path"),
        (["nearest", a, "--layers", "x"], "layers x: there are"),
        (["compare", a, b, "--metrics", "far"], "allowed are emd, nfd, fd"),
        (["show", a, "net"], "no VDNA of dataset"),
    ):
        assert main([*options, *wrong]) == 2
        errors = capsys.readouterr().err
        assert words in errors
        assert len(errors.splitlines()) == 1
