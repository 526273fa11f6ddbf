"""Publishing: readers see the old catalogue or the new one, copies go on where they were cut off, damage is found."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributions import VDNA, HistogramAxes
from pipeline import open_catalogue
from pipeline.catalogue import index as published
from pipeline.catalogue.copies import copy, listed, verify, walk
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.targets import target
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import Manifests
from pipeline.storage.folder import Folder
from tests.helpers import object_store, synthetic
from tests.helpers.hub_server import hub_server


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue of eight datasets, published."""
    folder = tmp_path_factory.mktemp("original") / "c"
    synthetic.make(folder, 8, images=8)
    return folder


@pytest.fixture
def catalogue(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "c")
    return tmp_path / "c"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDNA_CACHE", str(tmp_path / "cache"))


def add(store: Store, seed: int) -> None:
    """Measure the first dataset anew, compare and publish, as a run does."""
    spec = synthetic.spec_of()
    name = store.manifests()[0]["dataset"]
    store.put_vdna(synthetic.filled(spec, f"again-{seed}", 1, 8), name, synthetic.facts_of(name, 1))
    synthetic.compared(store, spec)
    assert publish(store)


def consistent(url: str, **options: Any) -> int:
    """Open a catalogue as a stranger does, and see that its matrix is of its VDNAs; the first one's version."""
    cat = open_catalogue(url, **options)
    names = cat.index()["dataset"].tolist()
    frame = cat.matrix("vit_small").frame
    found = cat.compare(names[0], names[1], metrics=["emd"])
    assert found.overall["emd"] == pytest.approx(frame.loc[names[0], names[1]], rel=1e-12)
    return int(cat.index()["version"][0])


def test_nothing_new_is_not_published_again(catalogue: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in catalogue.rglob("*") if path.is_file()}
    assert not publish(Store(str(catalogue)))
    assert before == {path: path.stat().st_mtime_ns for path in catalogue.rglob("*") if path.is_file()}


def poll(url: str, writer: Callable[[], None], **options: Any) -> set[int]:
    """What versions readers saw while someone wrote; none of them may fail."""
    seen: list[int] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(consistent(url, **options))
            except BaseException as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        writer()
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not failures, failures[0]
    return set(seen)


def test_readers_during_ten_publishes_see_the_old_or_the_new(catalogue: Path) -> None:
    store = Store(str(catalogue))
    seen = poll(str(catalogue), lambda: [add(store, seed) for seed in range(10)] and None)  # type: ignore[func-returns-value]
    assert seen <= set(range(1, 12))
    assert len(seen) > 2
    assert consistent(str(catalogue)) == 11


def test_readers_of_a_bucket_that_is_published_to(catalogue: Path, tmp_path: Path) -> None:
    with object_store.serve(tmp_path / "s3") as server:
        bucket = server.bucket("public")
        options = {"key": server.key, "secret": server.secret, "endpoint_url": server.endpoint}
        store, there = Store(str(catalogue)), target(f"{bucket}/c", options)
        copy(store, there)

        def write() -> None:
            for seed in range(10):
                add(store, seed)
                copy(Manifests(str(catalogue)), target(f"{bucket}/c", options))

        seen = poll(f"{bucket}/c", write, **options)
        assert seen <= set(range(1, 12))
        assert len(seen) > 2
        assert consistent(f"{bucket}/c", **options) == 11
        assert verify(Manifests(f"{bucket}/c", options))[2] == []


class TestCopying:
    def test_what_is_there_is_not_written_again(self, catalogue: Path, tmp_path: Path) -> None:
        source, there = Manifests(str(catalogue)), tmp_path / "there"
        (there / "partials").mkdir(parents=True)
        objects, size = copy(source, target(str(there)))
        pointer = published.read_pointer(source) or {}
        assert objects == len(dict(walk(source, pointer, listed(source, pointer, []), []))) - 1  # but for the page
        assert size > 10_000
        assert not list((there / "partials").iterdir())
        assert not (there / "plans").exists()
        assert copy(source, target(str(there))) == (0, 0)
        assert consistent(str(there)) == 1
        assert (there / "site" / "index.html").read_bytes() == (catalogue / "site" / "index.html").read_bytes()
        add(Store(str(catalogue)), 1)
        again, _ = copy(Manifests(str(catalogue)), target(str(there)))
        assert 0 < again < objects
        assert consistent(str(there)) == 2

    def test_what_another_catalogue_lists_is_not_taken_from_its_readers(
        self, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other, there = tmp_path / "other", str(tmp_path / "there")
        synthetic.make(other, 3, images=8)
        assert main(["--catalogue", str(catalogue), "publish", there]) == 0
        assert main(["--catalogue", str(other), "publish", there]) == 2
        assert "lists 5 VDNA(s) that" in capsys.readouterr().err
        assert len(open_catalogue(there).index()) == 8
        assert main(["--catalogue", str(other), "publish", there, "--replace"]) == 0
        assert len(open_catalogue(there).index()) == 3
        assert main(["--catalogue", str(catalogue), "publish", there]) == 0
        (tmp_path / "there" / "catalogue.json").write_bytes(b"{}")
        assert main(["--catalogue", str(other), "publish", there]) == 0  # which nobody could read any more

    def test_goes_on_where_it_was_cut_off(
        self, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there, put, written = tmp_path / "there", Folder.put, []

        def failing(self: Folder, path: str, data: bytes) -> None:
            if len(written) == 60:
                raise UserError("the line went dead")
            written.append(path)
            put(self, path, data)

        monkeypatch.setattr(Folder, "put", failing)
        with pytest.raises(UserError, match="went dead"):
            copy(Manifests(str(catalogue)), target(str(there)))
        with pytest.raises(UserError, match="no catalogue here"):
            open_catalogue(str(there))
        monkeypatch.setattr(Folder, "put", put)
        objects, _ = copy(Manifests(str(catalogue)), target(str(there)))
        assert consistent(str(there)) == 1
        copied, pointer = Manifests(str(there)), published.read_pointer(Folder(str(there))) or {}
        assert objects == len(dict(walk(copied, pointer, listed(copied, pointer, []), []))) - 1 - 60

    def test_what_is_cut_short_there_is_written_again(self, catalogue: Path, tmp_path: Path) -> None:
        there = tmp_path / "there"
        copy(Manifests(str(catalogue)), target(str(there)))
        path = next(there.glob("vdnas/*/*/*.zarr/histogram/c/0/0"))
        path.write_bytes(path.read_bytes()[:-1])
        assert copy(Manifests(str(catalogue)), target(str(there)))[0] == 1
        assert verify(Manifests(str(there)))[2] == []

    def test_what_is_spoiled_there_is_written_again_if_asked(self, catalogue: Path, tmp_path: Path) -> None:
        there = tmp_path / "there"
        command = ["--catalogue", str(catalogue), "publish", str(there)]
        assert main(command) == 0
        flip(next(there.glob("vdnas/*/*/*.zarr/histogram/c/0/0")), 7)
        assert main([*command, "--repair"]) == 0
        assert verify(Manifests(str(there)))[2] == []

    def test_an_older_catalogue_does_not_take_versions_away(
        self, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        older, there = tmp_path / "older", str(tmp_path / "there")
        shutil.copytree(catalogue, older)
        add(Store(str(catalogue)), 1)
        assert main(["--catalogue", str(catalogue), "publish", there]) == 0
        assert main(["--catalogue", str(older), "publish", there]) == 2
        assert "vit_small, version 2)" in capsys.readouterr().err
        assert consistent(there) == 2

    def test_a_hostile_source_writes_nothing_elsewhere(self, catalogue: Path, tmp_path: Path) -> None:
        record = next(catalogue.glob("vdnas/*/*/versions/*.json"))
        manifest = json.loads(record.read_text())
        manifest["objects"]["../../../../../victim"] = "0" * 64
        data = json.dumps(manifest).encode()
        index = published.read(Folder(str(catalogue))) or {}
        row = next(row for row in index["vdnas"] if row["dataset"] == manifest["dataset"])
        part = published.named(str(record.parent.relative_to(catalogue)), ".json", data)
        row["manifest"] = {"path": part["path"], "sha256": part["sha256"]}
        (catalogue / part["path"]).write_bytes(data)
        packed = published.packed(index)
        its = published.named("index", ".json.gz", packed)
        (catalogue / its["path"]).write_bytes(packed)
        said = json.loads((catalogue / "catalogue.json").read_text())
        (catalogue / "catalogue.json").write_text(json.dumps(published.pointer({"index": its, "site": said["site"]})))
        with pytest.raises(DamagedError, match="no path in a catalogue"):
            copy(Manifests(str(catalogue)), target(str(tmp_path / "there")))
        assert not list(tmp_path.rglob("victim"))

    def test_a_damaged_source_changes_nothing_there(self, catalogue: Path, tmp_path: Path) -> None:
        there = tmp_path / "there"
        copy(Manifests(str(catalogue)), target(str(there)))
        pointer = (there / "catalogue.json").read_bytes()
        add(Store(str(catalogue)), 1)
        flip(next((catalogue / "vdnas").glob("*/*/*.zarr/histogram/c/0/0")), 100)
        shutil.rmtree(next((there / "vdnas").iterdir()))
        with pytest.raises(DamagedError, match="is damaged"):
            copy(Manifests(str(catalogue)), target(str(there)))
        assert (there / "catalogue.json").read_bytes() == pointer

    def test_to_a_repository_of_the_hub(self, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with hub_server(monkeypatch, tmp_path, []) as files:
            assert main(["--catalogue", str(catalogue), "publish", "hf:datasets/me/vdnas"]) == 0
            assert json.loads(files["datasets/me/vdnas/catalogue.json"])["format"] == published.FORMAT
            count = len(files)
            assert copy(Manifests(str(catalogue)), target("hf:datasets/me/vdnas")) == (0, 0)
            assert len(files) == count
            assert consistent("hf:datasets/me/vdnas") == 1
            add(Store(str(catalogue)), 1)
            copy(Manifests(str(catalogue)), target("hf:datasets/me/vdnas"))
            assert consistent("hf://datasets/me/vdnas") == 2

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("https://host/c", "a website cannot be written to"),
            ("hf:me/vdnas", "give hf:datasets/OWNER/NAME"),
            ("hf:datasets/me", "give hf:datasets/OWNER/NAME"),
            ("nosuch://x", "cannot open this kind of URL"),
            ("", "nowhere to publish to"),
        ],
    )
    def test_mistakes(
        self, catalogue: Path, url: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert main(["--catalogue", str(catalogue), "publish", url]) == 2
        assert words in capsys.readouterr().err
        assert main(["--catalogue", str(tmp_path / "none"), "publish", str(tmp_path / "there")]) == 2
        assert "nothing was published there yet" in capsys.readouterr().err


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << random.Random(place).randrange(8)
    path.write_bytes(data)


class TestVerifying:
    def test_a_sound_catalogue(self, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", str(catalogue)]) == 0
        assert "all as they were written" in capsys.readouterr().out
        HistogramAxes.from_json(json.dumps({"mins_per_neuron": {"a": {"0": 0}}, "maxs_per_neuron": {"a": {"0": 1}}}))

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(
        "pattern",
        [
            "vdnas/*/*/*.zarr/histogram/c/0/0",
            "vdnas/*/*/*.zarr/zarr.json",
            "vdnas/*/*/*.zarr/shard_url/c/0",
            "vdnas/*/*/versions/*.json",
            "distances/*/*/*.zarr/emd/c/0/0/0",
            "distances/*/*/*.zarr.json",
            "index/*.json.gz",
            "site/data/*.bin",
            "site/data/*.json.gz",
            "catalogue.json",
            "vdnas/*/*/*.json",
            "distances/*/*/manifest.json",
            "site/index.html",
            "site/app-*/*.js",
            "index/schema-2.json",
        ],
    )
    def test_flipped_bits_are_found_and_named(
        self, catalogue: Path, pattern: str, seed: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = sorted(catalogue.glob(pattern))[seed % len(sorted(catalogue.glob(pattern)))]
        flip(path, random.Random(seed).randrange(path.stat().st_size))
        assert main(["verify", str(catalogue)]) == 1
        said = capsys.readouterr()
        assert str(path.relative_to(catalogue)) in said.err
        assert "damaged" in said.err
        assert "damaged" in said.out

    def test_what_is_gone_is_named(self, catalogue: Path) -> None:
        path = next(catalogue.glob("vdnas/*/*/*.zarr/mean/c/0"))
        path.unlink()
        damaged = verify(Manifests(str(catalogue)))[2]
        assert damaged == [f"{catalogue}/{path.relative_to(catalogue)} is damaged: it is not there"]

    def test_earlier_versions_are_read_as_well(self, catalogue: Path) -> None:
        store = Store(str(catalogue))
        old = next((catalogue / "vdnas" / store.manifests()[0]["dataset"]).glob("*/*.zarr/m2/c/0"))
        add(store, 1)
        flip(old, 7)
        assert [str(old.relative_to(catalogue)) in words for words in verify(Manifests(str(catalogue)))[2]] == [True]

    def test_histogram_axes(self, catalogue: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        store, spec = Store(str(catalogue)), synthetic.spec_of()
        assert spec.ranges is not None
        store.put_ranges(spec.network, spec.ranges)
        publish(store)
        assert verify(Manifests(str(catalogue)))[2] == []
        copy(store, target(str(tmp_path / "there")))
        copied = Store(str(tmp_path / "there")).get_ranges(spec.network)
        assert copied is not None
        assert copied.id == spec.ranges.id
        folder = catalogue / "ranges" / spec.network
        for path in (folder / f"{spec.ranges.id}.json", folder / "current"):
            whole = path.read_bytes()
            path.unlink()
            assert str(path) in verify(Manifests(str(catalogue)))[2][0]
            path.write_bytes(whole[::-1])
            assert str(path) in verify(Manifests(str(catalogue)))[2][0]
            publish(store)
            assert "publish: " in caplog.text
            assert "it is left out" in caplog.text
            caplog.clear()
            path.write_bytes(whole)
            publish(store)
            assert verify(Manifests(str(catalogue)))[2] == []
            assert caplog.text == ""

    def test_where_nothing_was_published(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", str(tmp_path)]) == 2
        assert "nothing was published there" in capsys.readouterr().err


def test_a_damaged_program_of_the_site_is_written_anew(catalogue: Path) -> None:
    flip(next(catalogue.glob("site/app-*/app.js")), 30)
    assert publish(Store(str(catalogue)))
    assert verify(Manifests(str(catalogue)))[2] == []
    assert not publish(Store(str(catalogue)))


def test_a_matrix_of_other_versions_is_not_published(catalogue: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(catalogue))
    name = store.manifests()[0]["dataset"]
    vdna = synthetic.filled(synthetic.spec_of(), "again", 1, 8)
    store.put_vdna(vdna, name, synthetic.facts_of(name, 1))
    assert publish(store)
    assert "the matrix of vit_small is not of the present versions and is left out" in caplog.text
    with pytest.raises(UserError, match="no distances"):
        open_catalogue(str(catalogue)).matrix("vit_small")


def test_a_damaged_manifest_is_restored_with_its_versions(catalogue: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(catalogue))
    name = store.manifests()[0]["dataset"]
    add(store, 1)
    head = next((catalogue / "vdnas" / name).glob("*/*.json"))
    whole = head.read_bytes()
    for path in (head, *list((catalogue / "vdnas" / store.manifests()[1]["dataset"]).glob("*/*.json"))):
        path.write_bytes(path.read_bytes()[:-1])
    assert "publish makes it anew from its version's record" in verify(Manifests(str(catalogue)))[2][0]
    publish(store)
    assert caplog.text.count("is restored") == 2
    assert verify(Manifests(str(catalogue)))[2] == []
    assert consistent(str(catalogue)) == 2
    head.write_bytes(whole[:-1])  # what is measured anew goes on from the last record as well
    found = store.put_vdna(synthetic.filled(synthetic.spec_of(), "anew", 1, 8), name, synthetic.facts_of(name, 1))
    assert [version["version"] for version in found["versions"]] == [1, 2]
    assert found["version"] == 3
    head.unlink()
    assert publish(store)  # a manifest that was removed is gone on purpose
    assert name not in set(open_catalogue(str(catalogue)).index()["dataset"])


def test_what_nothing_names_any_more_goes_when_it_is_old(catalogue: Path) -> None:
    store = Store(str(catalogue))
    first = {path.name for path in catalogue.glob("distances/*/*/*.zarr")}
    old = [path for pattern in ("index/*.gz", "site/data/*") for path in catalogue.glob(pattern)]
    for path in [*old, *catalogue.glob("distances/*/*/*.zarr/zarr.json")]:
        os.utime(path, (1, 1))
    reader = open_catalogue(str(catalogue))
    add(store, 1)
    add(store, 2)
    assert all(path.exists() for path in old)  # those of the last hour are still being read
    assert first <= {path.name for path in catalogue.glob("distances/*/*/*.zarr")}
    assert reader.matrix("vit_small").frame.shape == (8, 8)
    said = store.get_json("catalogue.json")
    for one in said["superseded"]:
        one["until"] = "2020-01-01T00:00:00+00:00"
    parts = {key: said[key] for key in ("index", "site", "superseded")}
    store.put_json("catalogue.json", published.pointer(parts))
    add(store, 3)
    assert not [path for path in old if path.exists() and path.name not in _named(store)]
    assert not first & {path.name for path in catalogue.glob("distances/*/*/*.zarr")}
    assert consistent(str(catalogue)) == 4
    assert open_catalogue(str(catalogue)).vdna(store.manifests()[0]["dataset"], "vit_small", version=1).load().images


def _named(store: Store) -> set[str]:
    return {path.rpartition("/")[2] for path, _ in walk(store, published.read_pointer(store) or {}, [])}


def test_a_vdna_of_another_program_is_published(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    """One without histograms or hashes of its shards, beside others."""
    store = Store(str(tmp_path / "c"))
    store.put_vdna(filled(1, ranges=None, distributions=("gaussian",)), "mine", synthetic.facts_of("x", 0))
    assert publish(store)
    assert verify(store)[2] == []
    index = json.loads(gzip.decompress(next((tmp_path / "c" / "index").glob("*.gz")).read_bytes()))
    assert index["specs"][index["vdnas"][0]["spec"]]["ranges"] == ""
