"""Publishing: readers see the old catalogue or the new one, copies go on where they were cut off, damage is found."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributions import VDNA
from pipeline import open_catalogue
from pipeline.catalogue import index as published
from pipeline.catalogue.copies import copy, listed, verify, walk
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.targets import target
from pipeline.catalogue.writer import Store
from pipeline.errors import UserError
from pipeline.formats.manifests import Manifests
from tests.helpers import object_store, synthetic
from tests.helpers.catalogues import add, consistent, flip


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
                done.wait(0.02)  # the writer needs the processor too
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
    seen = poll(str(catalogue), lambda: [add(store, seed) for seed in range(10)] and None)
    assert seen <= set(range(1, 12))
    assert len(seen) > 2
    assert consistent(str(catalogue)) == 11


def test_readers_of_a_bucket_that_is_published_to(catalogue: Path, tmp_path: Path) -> None:
    with object_store.serve(tmp_path / "s3") as server:
        bucket = server.bucket("public")
        options = {"key": server.key, "secret": server.secret, "endpoint_url": server.endpoint}
        store, destination = Store(str(catalogue)), target(f"{bucket}/c", options)
        copy(store, destination)

        def write() -> None:
            for seed in range(5):
                add(store, seed)
                copy(Manifests(str(catalogue)), target(f"{bucket}/c", options))

        seen = poll(f"{bucket}/c", write, **options)
        assert seen <= set(range(1, 7))
        assert len(seen) > 2
        assert consistent(f"{bucket}/c", **options) == 6
        assert verify(Manifests(f"{bucket}/c", options))[2] == []


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
    manifest = store.put_vdna(synthetic.filled(synthetic.spec_of(), "anew", 1, 8), name, synthetic.facts_of(name, 1))
    assert [version["version"] for version in manifest["versions"]] == [1, 2]
    assert manifest["version"] == 3
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
    pointer = store.get_json("catalogue.json")
    for one in pointer["superseded"]:
        one["until"] = "2020-01-01T00:00:00+00:00"
    parts = {key: pointer[key] for key in ("index", "site", "superseded")}
    store.put_json("catalogue.json", published.pointer(parts))
    add(store, 3)
    assert not [path for path in old if path.exists() and path.name not in _named(store)]
    assert not first & {path.name for path in catalogue.glob("distances/*/*/*.zarr")}
    assert consistent(str(catalogue)) == 4
    assert open_catalogue(str(catalogue)).vdna(store.manifests()[0]["dataset"], "vit_small", version=1).load().images


def _named(store: Store) -> set[str]:
    pointer = published.read_pointer(store) or {}
    return {path.rpartition("/")[2] for path, _ in walk(store, pointer, listed(store, pointer, []), [])}


def test_a_vdna_of_another_program_is_published(tmp_path: Path, filled: Callable[..., VDNA]) -> None:
    """One without histograms or hashes of its shards, beside others."""
    store = Store(str(tmp_path / "c"))
    store.put_vdna(filled(1, ranges=None, distributions=("gaussian",)), "mine", synthetic.facts_of("x", 0))
    assert publish(store)
    assert verify(store)[2] == []
    index = json.loads(gzip.decompress(next((tmp_path / "c" / "index").glob("*.gz")).read_bytes()))
    assert index["specs"][index["vdnas"][0]["spec"]]["ranges"] == ""
