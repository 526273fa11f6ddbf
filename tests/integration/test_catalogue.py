"""Catalogues as consumers see them: what they say, how little is read for an answer, and that the answer is right."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from distributions import VDNA, IncompatibleError, emd, fd, nfd
from distributions.comparison import compare
from pipeline import open_catalogue
from pipeline.catalogue import index as published
from pipeline.catalogue import neighbours
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.errors import DamagedError, UserError
from pipeline.storage import cache
from pipeline.storage.folder import Folder
from tests.helpers import synthetic
from tests.helpers.commands import ROOT
from tests.helpers.servers import web_server

DATASETS = 40
METRICS = {"emd": emd, "nfd": nfd, "fd": fd}


class Files(BaseHTTPRequestHandler):
    """A static website, which counts what it is asked for."""

    root: Path
    asked: Counter[str]
    sent: Counter[str]
    unpacked_on_the_way = False

    def do_GET(self) -> None:
        path = self.root / self.path.lstrip("/")
        self.asked[self.path] += 1
        data = path.read_bytes() if path.is_file() else b""
        self.sent[self.path] += len(data)
        self.send_response(200 if path.is_file() else 404)
        if path.suffix == ".gz" and self.unpacked_on_the_way:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def website(root: Path, **more: Any) -> Iterator[tuple[str, Counter[str]]]:
    """A folder's URL, and what it was asked for."""
    asked: Counter[str] = Counter()
    with web_server(type("Site", (Files,), {"root": root, "asked": asked, "sent": Counter(), **more})) as url:
        yield url, asked


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Forty datasets of a few kinds under one spec, published."""
    return synthetic.make(tmp_path_factory.mktemp("catalogue"), DATASETS, images=16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDNA_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def stranger() -> VDNA:
    """A set of images that is none of the catalogue's."""
    return synthetic.filled(synthetic.spec_of(), "a-stranger", 2, 16)


def test_the_index_keeps_its_schema(store: Store) -> None:
    folder = Folder(store.url)
    index = published.read(folder)
    assert index is not None
    schema = json.loads(folder.get(f"index/schema-{published.FORMAT}.json") or b"")
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
            for mine, its in (
                (view.gaussian(layer), whole.gaussian(layer)),
                (view.ranges(layer), whole.ranges(layer)),
            ):
                for a, b in zip(mine, its, strict=True):
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


class TestNearest:
    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("layers", [None, ["norm"], ["block_0", "norm"]])
    def test_is_what_comparing_with_all_gives(
        self, store: Store, stranger: VDNA, metric: str, layers: list[str] | None
    ) -> None:
        cat = open_catalogue(store.url)
        all_of_them = {
            name: compare(stranger, cat.vdna(name, "vit_small"), layers=layers).overall[metric]
            for name in cat.index()["dataset"]
        }
        expected = sorted(all_of_them, key=lambda name: (all_of_them[name], name))[:5]
        near = cat.nearest(stranger, metric=metric, k=5, layers=layers)
        assert near.index.tolist() == expected
        np.testing.assert_allclose(near.to_numpy(), [all_of_them[name] for name in expected], rtol=1e-12)

    def test_of_a_dataset_is_what_the_matrix_says(self, store: Store) -> None:
        cat = open_catalogue(store.url)
        name = cat.index()["dataset"][7]
        near, frame = cat.nearest(name, k=50), cat.matrix("vit_small").frame
        assert len(near) == DATASETS - 1
        assert near.to_dict() == frame.loc[name].drop(name).sort_values().to_dict()
        by_view = cat.nearest(cat.vdna(name), k=3)  # it is no answer to itself
        assert by_view.index.tolist() == near.index[:3].tolist()
        np.testing.assert_allclose(by_view, near.iloc[:3], rtol=1e-9)
        some = cat.nearest(name, layers=["norm"], metric="nfd")
        assert some.iloc[0] == pytest.approx(
            nfd(cat.vdna(name, "vit_small"), cat.vdna(some.index[0], "vit_small"), layer="norm"), rel=1e-9
        )

    @pytest.mark.parametrize("metric", METRICS)
    def test_reads_fewer_than_there_are(self, store: Store, stranger: VDNA, metric: str) -> None:
        with website(Path(store.root)) as (url, asked):
            open_catalogue(url).nearest(stranger, k=2, metric=metric)
            manifests = sum(1 for path in asked if "/versions/" in path)
            assert 2 <= manifests < DATASETS // 2

    def test_stops_when_the_rest_is_surely_farther(self) -> None:
        distances = np.random.default_rng(0).random(500)
        asked: list[int] = []

        def read(those: Any) -> list[float]:
            asked.extend(those)
            return distances[those].tolist()

        found = neighbours.nearest(0.9 * distances, read, 3)
        assert list(found) == np.argsort(distances)[:3].tolist()
        assert len(asked) == len(set(asked)) < 20
        assert list(neighbours.nearest(np.zeros(500), read, 3)) == list(found)
        assert list(neighbours.nearest(0.9 * distances, read, 900)) == np.argsort(distances).tolist()
        assert neighbours.nearest(np.empty(0), read, 3) == {}

    def test_without_a_matrix_all_are_read(self, tmp_path: Path, filled: Callable[..., VDNA], ranges: Any) -> None:
        store = Store(str(tmp_path / "c"))
        for seed in range(3):
            store.put_vdna(filled(seed), f"set{seed}", synthetic.facts_of("x", 0))
        publish(store)
        near = open_catalogue(store.url).nearest(filled(1, url="elsewhere"))
        assert near.index[0] == "set1"
        assert near.iloc[0] == 0
        assert len(near) == 3

    def test_mistakes(self, store: Store, filled: Callable[..., VDNA]) -> None:
        cat = open_catalogue(store.url)
        name = cat.index()["dataset"][0]
        with pytest.raises(UserError, match="not among"):
            cat.nearest("nothing")
        with pytest.raises(UserError, match="metric=far: allowed are emd, nfd, fd"):
            cat.nearest(name, metric="far")
        with pytest.raises(UserError, match="k=0"):
            cat.nearest(name, k=0)
        with pytest.raises(UserError, match="layers nowhere: there are block_0"):
            cat.nearest(name, layers=["nowhere"])
        with pytest.raises(ValueError, match="unknown layer 'nowhere'"):
            cat.nearest(cat.vdna(name, "vit_small"), layers=["nowhere"])
        with pytest.raises(IncompatibleError, match=r"nothing in this catalogue can be compared with it: .*extractor"):
            cat.nearest(filled(1))


def test_comparing(store: Store, stranger: VDNA) -> None:
    cat = open_catalogue(store.url)
    a, b = cat.index()["dataset"][:2]
    found = cat.compare(a, b)
    v, w = (cat.vdna(name, "vit_small") for name in (a, b))
    assert found.names == (a, b)
    for metric, distance in METRICS.items():
        assert found.overall[metric] == pytest.approx(distance(v, w), rel=1e-12)
        assert found.layers[metric]["norm"] == pytest.approx(distance(v, w, layer="norm"), rel=1e-12)
    most = found.most(3)
    per_neuron = emd(v, w, per_neuron=True)
    highest = max((values.max(), layer, int(values.argmax())) for layer, values in per_neuron.items())
    assert most[0] == (highest[1], highest[2], highest[0])
    assert [value for *_, value in most] == sorted((value for *_, value in most), reverse=True)
    beside = cat.compare(stranger, b, layers=["norm"])
    assert beside.names == ("yours", b)
    assert list(beside.layers["emd"]) == ["norm"]
    assert beside.overall["emd"] == pytest.approx(emd(stranger, w, layer="norm"), rel=1e-12)
    with pytest.raises(ValueError, match="unknown layer"):
        cat.compare(a, b, layers=["nowhere"])


def test_matrices(store: Store) -> None:
    cat = open_catalogue(store.url)
    names = cat.index()["dataset"].tolist()
    whole = cat.distances("vit_small", "nfd")
    assert whole.dims == ("dataset", "other", "layer")
    matrix = cat.matrix("vit_small", "nfd", layers=["block_0", "norm"], datasets=names[3:6])
    assert matrix.frame.index.tolist() == matrix.frame.columns.tolist() == names[3:6]
    weights = np.array([16, 24]) / 40
    expected = (whole.sel(layer=["block_0", "norm"]).to_numpy() * weights).sum(-1)[3:6, 3:6]
    np.testing.assert_allclose(matrix.array.to_numpy(), expected, rtol=1e-12)
    np.testing.assert_array_equal(cat.matrix("vit_small", "nfd").array.to_numpy(), whole.overall.to_numpy())
    with pytest.raises(UserError, match="datasets nobody"):
        cat.matrix("vit_small", datasets=["nobody"])
    with pytest.raises(UserError, match="no distances for extractor other"):
        cat.matrix("other")


class TestVersions:
    def test_new_data_is_a_new_version_and_the_old_stays(self, tmp_path: Path, filled: Callable[..., VDNA]) -> None:
        store, facts = Store(str(tmp_path / "c")), synthetic.facts_of("x", 0)
        old = filled(1)
        for vdna in (old, old, filled(2), filled(3)):
            store.put_vdna(vdna, "mine", facts)
            publish(store)
        cat = open_catalogue(store.url)
        row = published.read(Folder(store.url))["vdnas"][0]  # type: ignore[index]
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
        found = open_catalogue(store.url).manifest("mine", "net")
        assert found["description"] == "said otherwise"
        assert found["version"] == 1

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


def test_a_dataset_under_several_specs_is_one_answer(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    store, facts = Store(str(tmp_path / "c")), synthetic.facts_of("x", 0)
    store.put_vdna(filled(1), "twice", facts)
    store.put_vdna(filled(2, distributions=("histogram-20",)), "twice", facts)
    store.put_vdna(filled(3), "once", facts)
    publish(store)
    near = open_catalogue(store.url).nearest(filled(2, url="elsewhere"), k=5)
    assert sorted(near.index) == ["once", "twice"]


def test_bounds_of_fd_are_of_its_own_samples(tmp_path: Path) -> None:
    """With Gaussians over every position, their deviations are larger than those that FD is of."""
    spec = replace(synthetic.spec_of(), positions={"gaussian": "all"})
    store = Store(str(tmp_path / "c"))
    synthetic.fill(store, spec, synthetic.names(12), images=8)
    publish(store)
    cat = open_catalogue(store.url)
    for seed in range(4):
        view = synthetic.filled(spec, f"stranger-{seed}", seed, 8)
        distances = {name: fd(view, cat.vdna(name)) for name in cat.index()["dataset"]}
        assert cat.nearest(view, metric="fd", k=2).index.tolist() == sorted(distances, key=distances.__getitem__)[:2]


@pytest.mark.parametrize(
    "change",
    [
        lambda index: [],
        lambda index: {**index, "vdnas": None},
        lambda index: {key: value for key, value in index.items() if key != "matrices"},
        lambda index: {**index, "specs": {}},
        lambda index: {**index, "matrices": [{**index["matrices"][0], "members": [999]}]},
        lambda index: {**index, "vdnas": [{**index["vdnas"][0], "dataset": "../../x"}]},
        lambda index: {**index, "vdnas": [{**index["vdnas"][0], "versions": [{}]}]},
    ],
)
def test_an_index_of_another_shape_is_damaged(
    store: Store, tmp_path: Path, change: Callable[[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = published.packed(change(published.read(Folder(store.url))))
    part, folder = published.named("index", ".json.gz", data), Folder(str(tmp_path / "c"))
    folder.put(part["path"], data)
    folder.put_json("catalogue.json", published.pointer({"index": part, "site": part}))
    with pytest.raises(DamagedError, match="index"):
        open_catalogue(folder.url)
    assert main(["verify", folder.url]) == 1
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a\\..\\x", ""])
def test_no_path_leads_out_of_a_catalogue(tmp_path: Path, path: str) -> None:
    folder = Folder(str(tmp_path / "c"))
    for action in (
        folder.get,
        folder.at_once,
        folder.remove,
        lambda p: folder.put(p, b""),
        lambda p: folder.put_new(p, b""),
    ):
        with pytest.raises(DamagedError, match="is no path in a catalogue"):
            action(path)


def test_what_a_newer_program_wrote_is_refused(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    store = Store(str(tmp_path / "c"))
    store.put_vdna(filled(1), "mine", synthetic.facts_of("x", 0))
    publish(store)
    said = store.get_json("catalogue.json")
    store.put_json("catalogue.json", {**said, "format": published.FORMAT + 1})
    with pytest.raises(UserError, match="newer version of this program; update it"):
        open_catalogue(store.url)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[" * 100_000, b'{"format": 2}', b"\xff"])
def test_a_damaged_pointer_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "catalogue.json").write_bytes(data)
    with pytest.raises(DamagedError, match=r"catalogue\.json is damaged, or this is no catalogue"):
        open_catalogue(str(tmp_path))


def test_an_index_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MAX_BYTES", 1000)
    data = gzip.compress(b" " * 10_000)
    part = published.named("index", ".json.gz", data)
    folder = Folder(str(tmp_path))
    folder.put(part["path"], data)
    folder.put_json("catalogue.json", published.pointer({"index": part, "site": part}))
    with pytest.raises(DamagedError, match="more than an index may have"):
        open_catalogue(str(tmp_path))


def test_a_server_that_calls_gzip_an_encoding_of_the_way(store: Store) -> None:
    with website(Path(store.url), unpacked_on_the_way=True) as (url, _):
        assert len(open_catalogue(url).index()) == DATASETS


def test_no_catalogue_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no catalogue here"):
        open_catalogue(str(tmp_path))
    with website(tmp_path) as (url, _), pytest.raises(UserError, match="there is no catalogue here"):
        open_catalogue(url)


def test_the_cache_forgets_what_rots_and_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [bytes([i]) * 1000 for i in range(10)]
    for i, some in enumerate(data):
        cache.remember(sha256(some).hexdigest(), some)
        assert cache.recall(sha256(some).hexdigest()) == some
        path = next((tmp_path / "cache" / "objects").glob(f"??/{sha256(some).hexdigest()}"))
        os.utime(path, (i, i))
    path.write_bytes(b"rotten")
    assert cache.recall(sha256(data[9]).hexdigest()) is None
    monkeypatch.setattr(cache, "MOST_BYTES", 5000)
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
    there = ["--catalogue", store.url]
    a, b = open_catalogue(store.url).index()["dataset"][:2]
    assert main([*there, "nearest", a, "-k", "2", "--layers", "norm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dataset\tdistance"
    assert len(lines) == 3
    assert main([*there, "compare", a, b, "-k", "3"]) == 0
    out = capsys.readouterr().out
    assert "all layers" in out
    assert out.index("all layers") < out.index("neuron")
    assert main([*there, "compare", a, b, "--metrics", "emd"]) == 0
    assert capsys.readouterr().out.startswith("layer\temd\n")
    assert main([*there, "show", a, "--version", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 1
    for wrong, words in (
        (["nearest", "nowhere/at/all"], "neither a dataset of this catalogue nor a path"),
        (["compare", a, "nothing"], "neither a dataset of this catalogue nor a path"),
        (["nearest", a, "--layers", "x"], "layers x: there are"),
        (["compare", a, b, "--metrics", "far"], "allowed are emd, nfd, fd"),
        (["show", a, "net"], "no VDNA of dataset"),
    ):
        assert main([*there, *wrong]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert len(said.splitlines()) == 1
