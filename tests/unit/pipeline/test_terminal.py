"""What people type arrives, and what they are shown is their own text, whatever it is and wherever it is shown."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import run
from pipeline.cli import report
from pipeline.config.arguments import arguments, for_hydra
from pipeline.config.composition import SweptDatasets, check_overrides, dataset_config
from pipeline.errors import UserError
from pipeline.storage.urls import redact
from pipeline.terminal import lenient, plain
from tests.helpers.commands import settings as settings_of

NAMES = ("old [/b]", "[draft]", ":smile:", "a\x1b[31mb", "caf\xe9 \u2013 \u732b", "[bold]x[/bold]")


def arrived(argument: str) -> Any:
    """The value that Hydra reads of an argument as it is typed."""
    (override,) = [a for a in arguments([argument]) if a.partition("=")[0] == argument.partition("=")[0]]
    check_overrides([override])
    value = OverridesParser.create().parse_override(override).value()
    return [getattr(item, "text", item) for item in value] if isinstance(value, list) else value


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
        "+storage.key=12345678",
        "+storage.secret=1e5",
        "dataset.storage.account_key=TRUE",
        "+storage.client_kwargs.aws_secret_access_key=null",
        "+storage.headers.Authorization=0123",
        "storage.secret=[abc]",
        "storage.secret={abc}",
        'storage.secret="a"b',
        "storage.secret=a,b",
        "dataset.licence=[draft]",
        "dataset.description=[a, b]",
        "dataset.description=[draft] photos",
        'dataset.description="Faces" of people',
        'dataset.description="Faces" and "places"',
        "dataset.description='Tis the season",
        "dataset.description='Tis the season, isn't it",
        'dataset.description="',
        'dataset.description="C:\\"',
        "catalogue=[x]",
        "dataset.url=[ab]*.[jp]",
        "extractor.licence=[draft]",
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
        ("+storage.hosts=[a,b]", ["a", "b"]),
        ("dataset.description='one, two'", "one, two"),
        ("dataset.url=[a.tar,'b c.tar']", ["a.tar", "b c.tar"]),
        ("storage.secret=${oc.env:HOME}", "${oc.env:HOME}"),
    ],
)
def test_what_has_a_type_keeps_it(argument: str, value: Any) -> None:
    parsed = arrived(argument)
    assert (parsed.text if hasattr(parsed, "text") else parsed) == value


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.sampled_from(["dataset.licence", "dataset.description"]),
    st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=40),
)
def test_any_text(key: str, text: str) -> None:
    if text[:1] == text[-1:] and text[:1] in ("'", '"'):  # Hydra's own ways of writing a text
        return
    assert arrived(f"{key}={text}") == text


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
        ("positions.gausian=all", "did you mean positions.gaussian?"),
        ("+positions.histogramm=mean", "did you mean positions.histogram?"),
        ("~positions.gausian", "did you mean positions.gaussian?"),
    ],
)
def test_a_misspelt_nested_key_names_the_nearest(argument: str, nearest: str) -> None:
    with pytest.raises(UserError, match="unknown key") as raised:
        arguments([argument])
    assert nearest in str(raised.value)


SECRET = "GEH=EIM"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([f"+catalogue={SECRET}"], "catalogue: it is set already: leave the + out"),
        ([f"storage={SECRET}"], "storage: give options one by one"),
        (["~storage.secret=GEHEIM"], "~storage.secret: there is nothing of that name and value"),
        ([f"~storage={SECRET}"], "~storage: it cannot be left out"),
        (["storage/secret=GEHEIM"], "storage/secret: unknown key"),
        (["extractor@x=GEHEIM"], "extractor@x: unknown key"),
        (["batch_size=GEH,EIM"], "batch_size: several values need -m"),
        (["batch_size=choice(GEH,EIM)"], "batch_size: several values need -m"),
        (["calibration={dataset: GEHEIM}"], "did you mean calibration.datasets?"),
        (["hydra.job.num=GEHEIM"], "hydra.job.num: Hydra cannot set this"),
        (["hydra.jub=GEHEIM"], "hydra.jub: unknown key"),
        (["+storage.secret=abc", "GEHEIM"], "the word after +storage.secret has no ="),
        (["--storage=secret=GEHEIM"], "--storage: unknown flag"),
        (["--storage", "secret=GEHEIM"], "--storage: unknown flag"),
        (["-m", "batch_size=1,2", "other=GEHEIM"], "other: unknown key"),
        ([f"+x.y={SECRET}"], "+x.y: unknown key"),
    ],
)
def test_no_error_of_the_command_line_has_a_value(
    given: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal([*PLAN, *given], monkeypatch, capsys)
    assert named in message
    assert len(message.splitlines()) == 1
    assert "GEH" not in message
    assert "EIM" not in message


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("key", ["storage.secret", "dataset.storage.secret", "storage.a.b", "dataset.licence"])
def test_a_plus_says_nothing(
    key: str, plus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command goes on to what is wrong with its dataset."""
    assert "nothing is there" in refusal([*PLAN, f"{plus}{key}={SECRET}"], monkeypatch, capsys)


def test_a_sweep_logs_no_secret(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["-m", "dataset=demo_digits,laion_subset", "stages=[plan]", "patience=0", f"+storage.secret={SECRET}"]
    assert "GEH" not in refusal(given, monkeypatch, capsys)


def test_a_credential_with_a_dollar_is_itself() -> None:
    given = ["dataset=images", "dataset.name=a", "dataset.url=b", "storage.password=x${y}", "storage.key=12345678"]
    assert settings_of(*for_hydra(arguments(given))).storage == {"password": "x${y}", "key": "12345678"}


def test_flags_may_stand_behind() -> None:
    given = ["dataset=images", "--config-dir=~/conf", "batch_size=1,2", "-m"]
    home = Path.home()
    assert arguments(given) == ["--config-dir", f"{home}/conf", "-m", "dataset=images", "batch_size=1,2"]


PLAN = ("dataset=images", "dataset.name=x", "dataset.url=/nowhere/at/all", "stages=[plan]")


def refusal(given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says of a mistake on its command line."""
    monkeypatch.setattr(sys, "argv", ["run", *given])
    monkeypatch.setattr(SweptDatasets, "names", [])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as ended:
        run.command()
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    return out + error


@pytest.mark.parametrize(
    "storage", [{"key": 123}, {"secret": 1e5}, {"client_kwargs": {"token": 12}}, {"headers": {"X-Key": 7}}]
)
def test_a_credential_of_a_file_that_YAML_made_a_number_is_named(storage: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^dataset\.storage\.[\w.-]+: .*put it in quotes$") as raised:
        dataset_config({"name": "a", "url": "b", "storage": storage})
    assert not any(digit in str(raised.value) for digit in "123567")


@pytest.mark.parametrize("key", ["description", "licence"])
def test_what_a_file_says_of_a_dataset_is_text(key: str) -> None:
    for value in (["draft"], {"a": 1}, True):
        with pytest.raises(UserError, match=rf"^dataset\.{key}=.*: give a text"):
            dataset_config({"name": "a", "url": "b", key: value})
    for value, shown in ((2024, "2024"), (4.0, "4.0"), (None, ""), ("x", "x")):  # type: ignore[assignment]
        assert getattr(dataset_config({"name": "a", "url": "b", key: value}), key) == shown


def test_keys_that_may_be_anything_pass() -> None:
    given = ["+storage.anything.at.all=1", "+dataset.storage.x=1", "positions.gaussian=all", "hydra.verbose=true"]
    assert arguments(given) == given


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("name", NAMES)
def test_a_report_is_shown_in_any_encoding(name: str, encoding: str) -> None:
    manifest = {"dataset": name, "extractor": "e", "images": 6, "skipped": 1, "damaged_shards": 0, "fingerprint": "f"}
    manifest["skipped_by_reason"] = {name: 1}
    run = SimpleNamespace(
        extractor=SimpleNamespace(name="e", preprocess={}),
        dataset=SimpleNamespace(name=name),
        store=SimpleNamespace(manifest=lambda *_: manifest),
        spec=lambda: SimpleNamespace(id="s"),
    )
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding)
    report.print_counts([run], plain(file=file, width=200))  # type: ignore[list-item]
    report.print_failures([(name, name)], plain(file=file, width=200))
    file.flush()
    shown = buffer.getvalue().decode(encoding)
    expected = redact(name).encode(encoding, "backslashreplace").decode(encoding)
    assert shown.count(expected) == 4
    assert "\x1b" not in shown


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\u202egpj.exe", "\x9b31m", "x\x00y", "\u2066a"])
def test_nothing_that_people_read_steers_their_terminal(text: str) -> None:
    assert redact(text).isprintable()
    assert redact("two\nlines\tand caf\xe9") == "two\nlines\tand caf\xe9"


def test_a_closed_stream_is_one_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    lenient()
    with sys.stdout as file:
        file.write("x")
