"""Catalogues that are damaged, hostile, newer, or none."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distributions import VDNA
from pipeline import open_catalogue
from pipeline.catalogue import index as published
from pipeline.catalogue.index_schema import FORMAT
from pipeline.catalogue.publishing import publish
from pipeline.catalogue.writer import Store
from pipeline.cli.catalogue import main
from pipeline.errors import DamagedError, UserError
from pipeline.storage.folder import ObjectStore
from tests.helpers import synthetic
from tests.helpers.catalogues import website


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
    data = published.packed(change(published.read(ObjectStore(store.url))))
    part, folder = published.named("index", ".json.gz", data), ObjectStore(str(tmp_path / "c"))
    folder.put(part["path"], data)
    folder.put_json("catalogue.json", published.pointer({"index": part, "site": part}))
    with pytest.raises(DamagedError, match="index"):
        open_catalogue(folder.url)
    assert main(["verify", folder.url]) == 1
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a\\..\\x", ""])
def test_no_path_leads_out_of_a_catalogue(tmp_path: Path, path: str) -> None:
    folder = ObjectStore(str(tmp_path / "c"))
    for action in (
        folder.get,
        folder.get_at_once,
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
    pointer = store.get_json("catalogue.json")
    store.put_json("catalogue.json", {**pointer, "format": FORMAT + 1})
    with pytest.raises(UserError, match="newer version of this program; update vdna-catalogue"):
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
    folder = ObjectStore(str(tmp_path))
    folder.put(part["path"], data)
    folder.put_json("catalogue.json", published.pointer({"index": part, "site": part}))
    with pytest.raises(DamagedError, match="more than an index may have"):
        open_catalogue(str(tmp_path))


def test_no_catalogue_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no catalogue here"):
        open_catalogue(str(tmp_path))
    with website(tmp_path) as (url, _), pytest.raises(UserError, match="there is no catalogue here"):
        open_catalogue(url)
