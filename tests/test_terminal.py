"""What people type arrives, and what they are shown is their own text, whatever it is and wherever it is shown."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import report
from pipeline.arguments import arguments
from pipeline.config import check_overrides
from pipeline.errors import UserError
from pipeline.objects import hide
from pipeline.terminal import lenient, plain
from tests.conftest import ROOT

NAMES = ("old [/b]", "[draft]", ":smile:", "a\x1b[31mb", "caf\xe9 \u2013 \u732b", "[bold]x[/bold]")


def arrived(argument: str) -> Any:
    """The value that Hydra reads of an argument as it is typed."""
    (known,) = [a for a in arguments([argument]) if a.partition("=")[0] == argument.partition("=")[0]]
    check_overrides([known])
    return OverridesParser.create().parse_override(known).value()


@pytest.mark.parametrize(
    "argument",
    [
        "+storage.secret=abc/DEF+ghi==",
        "+dataset.storage.sas_token=?sv=2022&sig=abc%3D",
        "dataset.licence=CC BY 4.0 (see https://example.org/?a=b)",
        "extractor.licence=MIT, but (c) the authors",
        "dataset.description=it's 5 % {of} all, #1: $x",
        "extractor.model=hf-hub:a/b@main",
        "+storage.client_kwargs.endpoint_url=http://127.0.0.1:9000",
        "storage.token=1a",
    ],
)
def test_free_texts_need_no_quotes(argument: str) -> None:
    assert arrived(argument) == argument.partition("=")[2]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("+dataset.storage.anon=true", True),
        ("+storage.config_kwargs.max_pool_connections=50", 50),
        ("+storage.timeout=1.5", 1.5),
        ("+storage.none=null", None),
        ("+storage.secret='0123'", "0123"),
        ('dataset.licence="MIT"', "MIT"),
        ("+storage.client_kwargs={region_name: x}", {"region_name": "x"}),
    ],
)
def test_what_has_a_type_keeps_it(argument: str, value: Any) -> None:
    found = arrived(argument)
    assert (found.text if hasattr(found, "text") else found) == value


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1))
def test_any_text(text: str) -> None:
    if text[:1] in ("'", '"', "["):  # Hydra's own ways of writing a value
        return
    assert arrived(f"dataset.licence={text}") == text
    assert arrived(f"dataset.description={text}") == text


def test_what_hydra_cannot_read_is_named_without_its_value() -> None:
    with pytest.raises(UserError, match=r"^\+other\.key: .*quotes") as raised:
        check_overrides(["+other.key=secret=="])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("extractor.wieghts=random", "extractor.weights"),
        ("extractor.preprocess.rezise=clean", "extractor.preprocess.resize"),
        ("+extractor.sede=3", "extractor.seed"),
        ("dataset.urll=x", "dataset.url"),
        ("calibration.dataset=x", "calibration.datasets"),
        ("cluster.adress=x", "cluster.address"),
        ("extractor.foo=3", "extractor has"),
    ],
)
def test_a_misspelt_nested_key_names_the_nearest(argument: str, nearest: str) -> None:
    with pytest.raises(UserError, match="unknown key") as raised:
        arguments([argument])
    assert nearest in str(raised.value)


def test_keys_that_may_be_anything_pass() -> None:
    given = ["+storage.anything.at.all=1", "+dataset.storage.x=1", "positions.gaussian=all", "hydra.verbose=true"]
    assert arguments(given) == given


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("name", NAMES)
def test_a_report_is_shown_in_any_encoding(name: str, encoding: str) -> None:
    manifest = {"dataset": name, "extractor": "e", "images": 6, "skipped": 1, "damaged_shards": 0, "fingerprint": "f"}
    manifest["skipped_by_reason"] = {name: 1}
    run = SimpleNamespace(
        extractor=SimpleNamespace(name="e"),
        dataset=SimpleNamespace(name=name),
        store=SimpleNamespace(manifest=lambda *_: manifest),
        spec=lambda: SimpleNamespace(id="s"),
    )
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding)
    report.counted([run], plain(file=file, width=200))  # type: ignore[list-item]
    report.failed([(name, name)], plain(file=file, width=200))
    file.flush()
    shown = buffer.getvalue().decode(encoding)
    expected = hide(name).encode(encoding, "backslashreplace").decode(encoding)
    assert shown.count(expected) == 4
    assert "\x1b" not in shown


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\u202egpj.exe", "\x9b31m", "x\x00y", "\u2066a"])
def test_nothing_that_people_read_steers_their_terminal(text: str) -> None:
    assert hide(text).isprintable()
    assert hide("two\nlines\tand caf\xe9") == "two\nlines\tand caf\xe9"


@pytest.mark.parametrize("module", ["pipeline.catalogue", "pipeline.extractors"])
def test_help_and_errors_in_ascii(module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "LANG": "C"}
    for words in (["--help"], ["list", "caf\xe9\u2013"]):
        done = subprocess.run(
            [sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == (0 if words == ["--help"] else 2)
        assert "Traceback" not in done.stderr


def test_a_closed_stream_is_one_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    lenient()
    with sys.stdout as file:
        file.write("x")
