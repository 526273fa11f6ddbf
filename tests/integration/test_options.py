"""Options of a store on the catalogue's command line, which lead to a real S3 server with nothing else to go by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pipeline.cli.catalogue import main
from pipeline.cli.options import storage
from pipeline.errors import UserError
from tests.helpers import synthetic
from tests.helpers.object_store import ObjectStore, serve
from tests.helpers.web_proxy import proxying


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], {}),
        (["anon=true"], {"anon": True}),
        (["anon=True", "a=null", "b=None", "c=3", "d=1.5"], {"anon": True, "a": None, "b": None, "c": 3, "d": 1.5}),
        (["client_kwargs.region_name=eu", "client_kwargs.verify=false"],
         {"client_kwargs": {"region_name": "eu", "verify": False}}),
        (['config_kwargs={"retries": {"max_attempts": 2}}', "config_kwargs.signature_version=s3v4"],
         {"config_kwargs": {"retries": {"max_attempts": 2}, "signature_version": "s3v4"}}),
        (["secret=12345", "key=true", "token=null"], {"secret": "12345", "key": "true", "token": "null"}),
        (["secret=a=b==", "endpoint_url=http://h:1/?x=y"], {"secret": "a=b==", "endpoint_url": "http://h:1/?x=y"}),
        (["secret="], {"secret": ""}),
        (["a=1", "a=2"], {"a": 2}),
        (["x=NaN", "y=[1", "z=1e3", "w= b"], {"x": "NaN", "y": "[1", "z": 1000.0, "w": " b"}),
    ],
)  # fmt: skip
def test_options_of_a_store(pairs: list[str], expected: dict[str, Any]) -> None:
    assert storage("--storage", pairs) == expected


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["geheim"], "--storage: give KEY=VALUE"),
        (["=geheim"], "--storage: give KEY=VALUE"),
        (["a..b=geheim"], "--storage: give KEY=VALUE"),
        ([".a=geheim"], "--storage: give KEY=VALUE"),
        (["a.=geheim"], "--storage: give KEY=VALUE"),
        (["url=geheim"], "--storage url: this is no option"),
        (["fo=geheim"], "--storage fo: this is no option"),
        (["a=geheim", "a.b=geheim"], "--storage a.b: a has a value already"),
        (["a.b=geheim", "a.b.c=geheim"], "--storage a.b.c: b has a value already"),
    ],
)
def test_what_is_no_option_of_a_store(pairs: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        storage("--storage", pairs)
    assert str(caught.value).startswith(words)
    assert "geheim" not in str(caught.value)
    given = [word for pair in pairs for word in ("--storage", pair)]
    for arguments in ([*given, "list"], ["list", *given]):
        assert main(arguments) == 2
        assert capfd.readouterr() == ("", f"error: {caught.value}\n")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ObjectStore, str]]:
    """A real S3 server, and a catalogue that was published from a disk to it."""
    folder = tmp_path_factory.mktemp("stored")
    with serve(folder / "s3") as store, pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        url = f"{store.bucket('public')}/catalogue"
        synthetic.make(folder / "made", 3, 4)
        options = given(store, "--target-storage")
        assert main(["--catalogue", str(folder / "made"), "publish", url, *options]) == 0
        yield store, url


def given(store: ObjectStore, flag: str = "--storage") -> list[str]:
    """The options that lead to a store, as they are typed."""
    pairs = (f"key={store.key}", f"secret={store.secret}", f"endpoint_url={store.endpoint}")
    return [word for pair in (*pairs, "client_kwargs.region_name=us-east-1") for word in (flag, pair)]


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["list"], "dataset\textractor"),
        (["show", "{0}"], '"dataset": "{0}"'),
        (["nearest", "{0}"], "dataset\tdistance\n"),
        (["compare", "{0}", "{1}"], "all layers\t"),
        (["verify"], "all as they were written"),
        (["publish", "s3://public/copy-{n}"], " MiB were new"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_with_options_of_a_store(
    command: list[str], expected: str, behind: bool, stored: tuple[ObjectStore, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Once through a proxy, since what is signed is the host's name."""
    store, url = stored
    names = [name for name, _ in synthetic.names(3)]
    words = [word.replace("{n}", str(behind)).format(*names) for word in command]
    more = given(store, "--target-storage") if words[0] == "publish" else []
    with ExitStack() as stack:
        if not behind:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("http_proxy", stack.enter_context(proxying(store.endpoint))[0])
            store = store.at("http://s3.invalid:8333")
        options = given(store)
        arguments = [*words, "--catalogue", url, *options] if behind else ["--catalogue", url, *options, *words]
        code = main([*arguments, *more])
    output, errors = capfd.readouterr()
    assert (code, errors) == (0, "")
    assert expected.format(*names) in output
    if words[0] in ("list", "nearest"):
        assert names[-1] in output


def test_a_wrong_secret_is_in_no_error(stored: tuple[ObjectStore, str], capfd: pytest.CaptureFixture[str]) -> None:
    store, url = stored
    assert main(["--catalogue", url, "list", *given(store), "--storage", "secret=geheim"]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith(f"error: catalogue={url}: cannot be read (")
    assert errors.count("\n") == 1
    assert "geheim" not in errors
    assert store.secret not in errors
