"""The index has one definition: what the published JSON schema refuses, the reader refuses, and nothing is misread."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline.catalogue import index as published
from pipeline.catalogue.index_schema import FORMAT, parse_index, schema
from pipeline.errors import DamagedError, UserError
from pipeline.storage.folder import ObjectStore

URL = "s3://bucket/catalogue"
RECORD = {"path": "vdnas/a/net/versions/x.json", "sha256": "0" * 64}
VERSION = {"version": 1, "created": "2026-01-01T00:00:00+00:00", "images": 3, "digest": "1" * 64, "manifest": RECORD}
SPEC = {
    **dict.fromkeys(("architecture", "weights", "preprocessing", "precision", "ranges", "network"), ""),
    **{"extractor": "net", "distributions": ["gaussian"], "layers": {"stem": 5, "norm": 3}},
}
ROW = {
    **{"dataset": "a", "spec": "0123", "skipped": 0, "fingerprint": "2" * 16, "group": "vdnas/a/net/x.zarr"},
    **{**VERSION, "versions": [VERSION]},
}
MATRIX = {
    **{"spec": "0123", "members": [0, 1], "group": "distances/net/0123/x.zarr", "manifest": RECORD},
    **{"metrics": ["nfd"], "units": {"nfd": "squared activation"}, "created": "2026-01-01T00:00:00+00:00"},
}
INDEX: dict[str, Any] = {
    **{"format": FORMAT, "created": "2026-01-01T00:00:00+00:00", "program": "vdna-catalogue 0.1.0"},
    **{"specs": {"0123": SPEC}, "vdnas": [ROW, {**ROW, "dataset": "b"}], "matrices": [MATRIX]},
}
FULL: dict[str, Any] = {
    **{"description": "", "licence": "MIT", "url": ["a", "b"], "skipped_by_reason": {"corrupt": 1}, "bytes": None},
    **{
        "damaged_shards": 0,
        "shards": 4,
        "clamped_share": 0.25,
        "not_finite": 0,
        "program": "",
        "thumbnails": ["a.jpg"],
    },
    **{"provenance": {"threads": [2]}},
}


def test_an_index_is_read_as_it_was_written() -> None:
    check = jsonschema.Draft202012Validator(json.loads(schema()))
    check.check_schema(json.loads(schema()))
    more = {**SPEC, "positions": {"gaussian": "all"}, "extractor_licence": "MIT"}
    for index in (INDEX, {**INDEX, "specs": {"0123": more}, "vdnas": [{**row, **FULL} for row in INDEX["vdnas"]]}):
        check.validate(index)
        assert parse_index(URL, json.dumps(index).encode()) == index
    assert list(parse_index(URL, json.dumps(INDEX).encode())["specs"]["0123"]["layers"]) == ["stem", "norm"]  # in order


REFUSED: list[tuple[str, Any]] = [
    *((key, None) for key in ("format", "created", "program", "specs", "vdnas", "matrices")),
    *((f"specs {key}", None) for key in ("extractor", "architecture", "weights", "preprocessing", "precision")),
    *((f"specs {key}", None) for key in ("distributions", "ranges", "network", "layers")),
    *((f"vdnas {key}", None) for key in ("dataset", "spec", "version", "images", "skipped", "fingerprint", "digest")),
    *((f"vdnas {key}", None) for key in ("created", "group", "manifest", "versions")),
    *((f"matrices {key}", None) for key in ("spec", "members", "group", "manifest", "metrics", "units", "created")),
    *(("format", value) for value in ("2", 1, 2.5, True)),
    *(("specs extractor", value) for value in (1, "../x", "a\n")),
    *(("specs distributions", value) for value in ([], "gaussian", [1])),
    *(("specs positions", value) for value in ([], {"gaussian": "some"})),
    *(("specs layers", value) for value in ([], {"a": 0}, {"a": -1}, {"a": "1"}, {"a": True}, {"a": 1.5})),
    *(("vdnas dataset", value) for value in (1, "", "../x", ".x", "a/b", "a\n", "a" * 129)),
    *((f"vdnas {key}", value) for key in ("images", "skipped", "damaged_shards") for value in (-1, "1", 1.5, True)),
    *((f"vdnas {key}", value) for key in ("shards", "not_finite") for value in (-1, "1", 1.5, True)),
    *(("vdnas version", value) for value in (0, "1")),
    *(("vdnas clamped_share", value) for value in (-0.1, 1.1, "0", True)),
    *(("vdnas digest", value) for value in ("", "a" * 63, "A" * 64, "a" * 64 + "\n", 1)),
    *(("vdnas url", value) for value in (1, [1], {})),
    *((f"vdnas {key}", 1) for key in ("description", "licence", "program", "provenance", "thumbnails", "group")),
    *(("vdnas skipped_by_reason", value) for value in ([], {"corrupt": -1}, {"corrupt": "1"})),
    ("vdnas bytes", "1"),
    *(("vdnas manifest", value) for value in ("x", {}, {"path": 1, "sha256": "a" * 64}, {"path": "x", "sha256": "a"})),
    *(("vdnas versions", value) for value in ({}, [{}], [1])),
    *(("matrices members", value) for value in ([-1], ["0"], 0)),
    *(("matrices metrics", value) for value in (["cosine"], "emd")),
    ("matrices units", {"emd": 1}),
]


@pytest.mark.parametrize(("place", "value"), REFUSED, ids=[f"{place}={value!r:.20}" for place, value in REFUSED])
def test_schema_and_reader_refuse_the_same(place: str, value: Any) -> None:
    """A value of None stands for a key that is not there, which is refused too where its value is null."""
    index = copy.deepcopy(INDEX)
    parse_index(URL, json.dumps(index).encode())
    part, _, key = place.rpartition(" ")
    changed = index if not part else next(iter(index[part].values())) if part == "specs" else index[part][0]
    check = jsonschema.Draft202012Validator(json.loads(schema()))
    for values in [{key: value}] if value is not None else [{key: None}, {}]:
        changed.pop(key, None)
        changed |= values
        assert not check.is_valid(index)
        with pytest.raises(ValueError, match=rf"\$|`{key}`"):
            parse_index(URL, json.dumps(index).encode())


def test_keys_that_are_not_known_are_passed_over() -> None:
    index = copy.deepcopy(INDEX)
    more = {**index, "later": 1, "vdnas": [{**row, "later": {"a": [None]}} for row in index["vdnas"]]}
    jsonschema.validate(more, json.loads(schema()))
    assert parse_index(URL, json.dumps(more).encode()) == index


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("vdnas spec", "x", "no spec 'x'"),
        ("matrices spec", "x", "no spec 'x'"),
        ("matrices members", [2], f"row {2} of {2}"),
        ("matrices members", [0, 1, 0], "a dataset twice"),
    ],
)
def test_what_an_index_names_is_in_it(place: str, value: Any, message: str) -> None:
    index = copy.deepcopy(INDEX)
    part, key = place.split()
    index[part][0][key] = value
    with pytest.raises(ValueError, match=message):
        parse_index(URL, json.dumps(index).encode())


@pytest.mark.parametrize(
    "text", [b"", b"[", b"{}", b"[" * 100_000, b'{"later":' + b"[" * 100_000, b'{"a": NaN}', b"\xff"]
)
def test_text_that_is_no_index_is_damaged(tmp_path: Path, text: bytes) -> None:
    data, folder = gzip.compress(text), ObjectStore(str(tmp_path))
    part = published.named("index", ".json.gz", data)
    folder.put(part["path"], data)
    with pytest.raises(DamagedError, match=r"index/.*\.json\.gz is damaged"):
        published.read_index(folder, {"index": part})


def test_an_index_of_a_later_format_is_a_newer_programs(tmp_path: Path) -> None:
    data, folder = published.packed({"format": FORMAT + 1, "rows": []}), ObjectStore(str(tmp_path))
    part = published.named("index", ".json.gz", data)
    folder.put(part["path"], data)
    with pytest.raises(UserError, match="newer version of this program; update vdna-catalogue"):
        published.read_index(folder, {"index": part})
