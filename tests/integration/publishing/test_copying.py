"""A catalogue is copied to another place, and a copy is verified."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from distributions import HistogramAxes
from pipeline import open_catalogue
from pipeline.catalogue import index as published
from pipeline.catalogue.copies import copy, listed, verify, walk
from pipeline.catalogue.index_schema import FORMAT
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.targets import target
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.errors import DamagedError, UserError
from pipeline.formats.manifests import Manifests
from pipeline.storage.folder import ObjectStore
from tests.helpers import synthetic
from tests.helpers.catalogues import add, consistent, flip
from tests.helpers.hub_server import hub_server


class TestCopying:
    def test_what_is_there_is_not_written_again(self, catalogue: Path, tmp_path: Path) -> None:
        source, destination = Manifests(str(catalogue)), tmp_path / "there"
        (destination / "partials").mkdir(parents=True)
        objects, size = copy(source, target(str(destination)))
        pointer = published.read_pointer(source) or {}
        assert objects == len(dict(walk(source, pointer, listed(source, pointer, []), []))) - 1  # but for the page
        assert size > 10_000
        assert not list((destination / "partials").iterdir())
        assert not (destination / "plans").exists()
        assert copy(source, target(str(destination))) == (0, 0)
        assert consistent(str(destination)) == 1
        assert (destination / "site" / "index.html").read_bytes() == (catalogue / "site" / "index.html").read_bytes()
        add(Store(str(catalogue)), 1)
        again, _ = copy(Manifests(str(catalogue)), target(str(destination)))
        assert 0 < again < objects
        assert consistent(str(destination)) == 2

    def test_what_another_catalogue_lists_is_not_taken_from_its_readers(
        self, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other, destination = tmp_path / "other", str(tmp_path / "there")
        synthetic.make(other, 3, images=8)
        assert main(["--catalogue", str(catalogue), "publish", destination]) == 0
        assert main(["--catalogue", str(other), "publish", destination]) == 2
        assert "lists 5 VDNA(s) that" in capsys.readouterr().err
        assert len(open_catalogue(destination).index()) == 8
        assert main(["--catalogue", str(other), "publish", destination, "--replace"]) == 0
        assert len(open_catalogue(destination).index()) == 3
        assert main(["--catalogue", str(catalogue), "publish", destination]) == 0
        (tmp_path / "there" / "catalogue.json").write_bytes(b"{}")
        assert main(["--catalogue", str(other), "publish", destination]) == 0  # which nobody could read any more

    def test_goes_on_where_it_was_cut_off(
        self, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        destination, put, written = tmp_path / "there", ObjectStore.put, []

        def failing(self: ObjectStore, path: str, data: bytes) -> None:
            if len(written) == 60:
                raise UserError("the line went dead")
            written.append(path)
            put(self, path, data)

        monkeypatch.setattr(ObjectStore, "put", failing)
        with pytest.raises(UserError, match="went dead"):
            copy(Manifests(str(catalogue)), target(str(destination)))
        with pytest.raises(UserError, match="no catalogue here"):
            open_catalogue(str(destination))
        monkeypatch.setattr(ObjectStore, "put", put)
        objects, _ = copy(Manifests(str(catalogue)), target(str(destination)))
        assert consistent(str(destination)) == 1
        copied, pointer = Manifests(str(destination)), published.read_pointer(ObjectStore(str(destination))) or {}
        assert objects == len(dict(walk(copied, pointer, listed(copied, pointer, []), []))) - 1 - 60

    def test_what_is_cut_short_there_is_written_again(self, catalogue: Path, tmp_path: Path) -> None:
        destination = tmp_path / "there"
        copy(Manifests(str(catalogue)), target(str(destination)))
        path = next(destination.glob("vdnas/*/*/*.zarr/histogram/c/0/0"))
        path.write_bytes(path.read_bytes()[:-1])
        assert copy(Manifests(str(catalogue)), target(str(destination)))[0] == 1
        assert verify(Manifests(str(destination)))[2] == []

    def test_what_is_spoiled_there_is_written_again_if_asked(self, catalogue: Path, tmp_path: Path) -> None:
        destination = tmp_path / "there"
        command = ["--catalogue", str(catalogue), "publish", str(destination)]
        assert main(command) == 0
        flip(next(destination.glob("vdnas/*/*/*.zarr/histogram/c/0/0")), 7)
        assert main([*command, "--repair"]) == 0
        assert verify(Manifests(str(destination)))[2] == []

    def test_an_older_catalogue_does_not_take_versions_away(
        self, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        older, destination = tmp_path / "older", str(tmp_path / "there")
        shutil.copytree(catalogue, older)
        add(Store(str(catalogue)), 1)
        assert main(["--catalogue", str(catalogue), "publish", destination]) == 0
        assert main(["--catalogue", str(older), "publish", destination]) == 2
        assert "vit_small, version 2)" in capsys.readouterr().err
        assert consistent(destination) == 2

    def test_a_hostile_source_writes_nothing_elsewhere(self, catalogue: Path, tmp_path: Path) -> None:
        record = next(catalogue.glob("vdnas/*/*/versions/*.json"))
        manifest = json.loads(record.read_text())
        manifest["objects"]["../../../../../victim"] = "0" * 64
        data = json.dumps(manifest).encode()
        index = published.read(ObjectStore(str(catalogue))) or {}
        row = next(row for row in index["vdnas"] if row["dataset"] == manifest["dataset"])
        part = published.named(str(record.parent.relative_to(catalogue)), ".json", data)
        row["manifest"] = {"path": part["path"], "sha256": part["sha256"]}
        (catalogue / part["path"]).write_bytes(data)
        packed = published.packed(index)
        entry = published.named("index", ".json.gz", packed)
        (catalogue / entry["path"]).write_bytes(packed)
        pointer = json.loads((catalogue / "catalogue.json").read_text())
        (catalogue / "catalogue.json").write_text(
            json.dumps(published.pointer({"index": entry, "site": pointer["site"]}))
        )
        with pytest.raises(DamagedError, match="no path in a catalogue"):
            copy(Manifests(str(catalogue)), target(str(tmp_path / "there")))
        assert not list(tmp_path.rglob("victim"))

    def test_a_damaged_source_changes_nothing_there(self, catalogue: Path, tmp_path: Path) -> None:
        destination = tmp_path / "there"
        copy(Manifests(str(catalogue)), target(str(destination)))
        pointer = (destination / "catalogue.json").read_bytes()
        add(Store(str(catalogue)), 1)
        flip(next((catalogue / "vdnas").glob("*/*/*.zarr/histogram/c/0/0")), 100)
        shutil.rmtree(next((destination / "vdnas").iterdir()))
        with pytest.raises(DamagedError, match="is damaged"):
            copy(Manifests(str(catalogue)), target(str(destination)))
        assert (destination / "catalogue.json").read_bytes() == pointer

    def test_to_a_repository_of_the_hub(self, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with hub_server(monkeypatch, tmp_path, []) as files:
            assert main(["--catalogue", str(catalogue), "publish", "hf:datasets/me/vdnas"]) == 0
            assert json.loads(files["datasets/me/vdnas/catalogue.json"])["format"] == FORMAT
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
        captured = capsys.readouterr()
        assert str(path.relative_to(catalogue)) in captured.err
        assert "damaged" in captured.err
        assert "damaged" in captured.out

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
        store.put_ranges(spec.network_id, spec.ranges)
        publish(store)
        assert verify(Manifests(str(catalogue)))[2] == []
        copy(store, target(str(tmp_path / "there")))
        copied = Store(str(tmp_path / "there")).get_ranges(spec.network_id)
        assert copied is not None
        assert copied.id == spec.ranges.id
        folder = catalogue / "ranges" / spec.network_id
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
