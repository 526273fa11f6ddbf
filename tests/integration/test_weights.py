"""Files from elsewhere: fetched once and what was published, whatever the line does, or an error with the remedy."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import timm
import torch

from extractors import ExtractorConfig, ExtractorError, WeightsError, build
from extractors.download import files
from extractors.sources import create
from extractors.weights import fetch, read
from pipeline.config.networks import named_extractor
from tests.helpers.hub_server import hub_server
from tests.helpers.servers import static_server, web_server

DATA = bytes(range(256)) * 64
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VDNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "PAUSE", 0.001)
    return tmp_path / "cache"


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler, int], None]) -> Iterator[tuple[str, list[str]]]:
    """A server whose n-th answer is given by a function, and the requests it got."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            answer(self, len(requests))

    with web_server(Handler) as url:
        yield url, requests


def say(handler: BaseHTTPRequestHandler, data: bytes, length: int | None = None, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.send_header("Retry-After", "0")
    handler.end_headers()
    handler.wfile.write(data)


def blobs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "blobs").iterdir()) if (folder / "blobs").exists() else []


def test_a_file_is_fetched_once_and_named_by_its_contents(own_cache: Path) -> None:
    with serving(lambda handler, n: say(handler, DATA)) as (url, requests):
        first = fetch(f"{url}/net.pth")
        assert first.read_bytes() == DATA
        assert fetch(f"{url}/net.pth") == first
        assert fetch(f"{url}/same.pth") == first
    assert requests == ["/net.pth", "/same.pth"]
    assert blobs(own_cache) == [SHA]
    assert fetch(f"{url}/net.pth") == first, "the server is gone, the file is here"


def test_what_rotted_in_the_cache_is_fetched_again(own_cache: Path) -> None:
    with serving(lambda handler, n: say(handler, DATA)) as (url, requests):
        path = fetch(f"{url}/net.pth")
        path.write_bytes(DATA[:-1] + b"\0")
        assert fetch(f"{url}/net.pth").read_bytes() == DATA
    assert len(requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait_is_asked_again(status: int) -> None:
    with serving(lambda h, n: say(h, DATA) if n > 3 else say(h, b"", status=status)) as (url, requests):
        assert fetch(f"{url}/net.pth").read_bytes() == DATA
    assert len(requests) == 4


def test_but_not_for_ever(own_cache: Path) -> None:
    with (
        serving(lambda handler, n: say(handler, b"", status=429)) as (url, requests),
        pytest.raises(
            WeightsError, match=r"HTTP 429, 5 times\)\. Fetch that file where there is a network and give its"
        ),
    ):
        fetch(f"{url}/net.pth")
    assert len(requests) == files.TRIES
    assert blobs(own_cache) == []


def test_what_is_not_there_is_asked_for_once() -> None:
    with (
        serving(lambda handler, n: say(handler, b"", status=404)) as (url, requests),
        pytest.raises(WeightsError, match=r"HTTP 404.*extractor\.weights=PATH"),
    ):
        fetch(f"{url}/net.pth")
    assert len(requests) == 1


def test_a_download_that_breaks_off(own_cache: Path) -> None:
    with serving(lambda h, n: say(h, DATA[:100] if n == 1 else DATA, len(DATA))) as (url, requests):
        assert fetch(f"{url}/net.pth").read_bytes() == DATA
    assert len(requests) == 2
    with (
        serving(lambda handler, n: say(handler, DATA[:100], len(DATA))) as (url, _),
        pytest.raises(WeightsError, match="cannot get the weights"),
    ):
        fetch(f"{url}/other.pth")
    assert blobs(own_cache) == [SHA]


@pytest.mark.parametrize("name", ["net-0badc0de.pth", f"{'0' * 64}/net.pt"])
def test_what_has_not_the_published_hash_is_not_kept(name: str, own_cache: Path) -> None:
    with (
        serving(lambda handler, n: say(handler, DATA)) as (url, requests),
        pytest.raises(WeightsError, match=f"its SHA-256 is {SHA}, not"),
    ):
        fetch(f"{url}/{name}")
    assert len(requests) == files.TRIES, "a line that spoils bytes may spare them another time"
    assert blobs(own_cache) == []


def test_what_has_it_is(tmp_path: Path) -> None:
    with serving(lambda handler, n: say(handler, DATA)) as (url, _):
        assert fetch(f"{url}/net-{SHA[:8]}.pth").name == SHA
        assert fetch(f"{url}/{SHA}/net.pt").name == SHA
    (tmp_path / "mine.pth").write_bytes(DATA)
    assert fetch(str(tmp_path / "mine.pth"), SHA) == tmp_path / "mine.pth"
    with pytest.raises(WeightsError, match=f"its SHA-256 is {SHA}, not 00000000"):
        fetch(str(tmp_path / "mine.pth"), "00000000")


def test_a_page_that_asks_to_log_in_is_not_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "good.pth")
    good = (tmp_path / "good.pth").read_bytes()
    with serving(lambda h, n: say(h, b"<html>log in</html>" if n == 1 else good)) as (url, requests):
        config = ExtractorConfig("mine", "test_vit", pretrained=f"{url}/net.pth?token=secret")
        with pytest.raises(
            WeightsError, match=rf"^{url}/net\.pth.* is not a readable checkpoint: .*save_file"
        ) as caught:
            build(config)
        assert "\n" not in str(caught.value)
        build(config)
    assert len(requests) == 2
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / "cache" / "urls").iterdir())


@pytest.mark.parametrize("note", [b"", b"\xff\xfe", b"nonsense nowhere"])
def test_a_note_that_rotted(own_cache: Path, note: bytes) -> None:
    with serving(lambda handler, n: say(handler, DATA)) as (url, requests):
        fetch(f"{url}/net.pth")
        (written,) = (own_cache / "urls").iterdir()
        assert written.stat().st_mode & 0o777 == 0o644, "others may share the cache"
        written.write_bytes(note)
        assert fetch(f"{url}/net.pth").read_bytes() == DATA
    assert len(requests) == 2


@pytest.mark.parametrize("after", ["nan", "inf", "soon", "-3"])
def test_what_a_server_says_of_waiting(after: str) -> None:
    def answer(handler: BaseHTTPRequestHandler, n: int) -> None:
        handler.send_response(429 if n == 1 else 200)
        handler.send_header("Retry-After", after)
        handler.send_header("Content-Length", "0" if n == 1 else str(len(DATA)))
        handler.end_headers()
        if n > 1:
            handler.wfile.write(DATA)

    with serving(answer) as (url, requests):
        assert fetch(f"{url}/net.pth").read_bytes() == DATA
    assert len(requests) == 2


@pytest.mark.parametrize("source", ["http://[/w.pth", "http://h/a b.pth", "package:nowhere.sub/x.pth", "s3://b/w.pth"])
def test_what_is_no_place(source: str) -> None:
    with pytest.raises(WeightsError, match="cannot get the weights from"):
        fetch(source)


def test_a_hash_that_is_given_is_checked_whatever_it_is_of(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"its SHA-256 is .*, not 00000000"):
        build(ExtractorConfig("mine", "test_vit", weights=str(tmp_path / "w.pth"), sha256="00000000"))


def test_a_date_is_no_hash() -> None:
    assert files.stated("https://host/net-20231105.pth") == ""
    assert files.stated("https://host/net-2023110a.pth") == "2023110a"
    assert files.stated(f"/home/{'a' * 64}/net.pt") == "", "what a path says nobody has checked"


def test_without_a_network(own_cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        build(named_extractor("dino_vit_base", pretrained="http://127.0.0.1:9/dino.pth"))
    assert "\n" not in str(caught.value)
    assert "extractor.weights=PATH" in str(caught.value)
    assert blobs(own_cache) == []


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals: list[int] = []
    with hub_server(monkeypatch, tmp_path, refusals) as files:
        files["owner/models/some/folder/weights.pth"] = DATA
        files["datasets/owner/data/x.json"] = b"{}"
        assert fetch("hf:owner/models/some/folder/weights.pth").read_bytes() == DATA
        assert fetch("hf:datasets/owner/data/x.json").read_bytes() == b"{}"
        refusals += [429, 429]
        assert fetch("hf:datasets/owner/data/x.json").read_bytes() == b"{}"
        with pytest.raises(WeightsError, match=r"cannot get the weights from hf:owner/models/no\.pth .*weights=random"):
            fetch("hf:owner/models/no.pth")
        with pytest.raises(WeightsError, match="give hf:OWNER/NAME/FILE"):
            fetch("hf:models/no.pth")


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDNA_CACHE", str(tmp_path))
    config = named_extractor("dino_vit_base", pretrained="http://127.0.0.1:9/dino.pth")
    with pytest.raises(WeightsError, match=r"cannot get the weights from http://127.*extractor\.weights=PATH"):
        build(config)
    assert not list(tmp_path.rglob("*.pth*"))


class TestCheckpoints:
    """What is in a file, whatever a training put around it."""

    def saved(self, tmp_path: Path, content: object) -> Path:
        torch.save(content, tmp_path / "x.pth")
        return tmp_path / "x.pth"

    @pytest.mark.parametrize("around", ["", "state_dict", "model_state_dict", "model", "teacher"])
    def test_where_the_tensors_are(self, tmp_path: Path, around: str) -> None:
        tensors = {"module.a": torch.ones(2), "module.b": torch.zeros(3)}
        state = read(self.saved(tmp_path, {around: tensors, "epoch": 3} if around else tensors))
        assert list(state) == ["a", "b"]

    @pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(2)], torch.ones(2), {"a": {"b": torch.ones(2)}}])
    def test_what_is_none(self, tmp_path: Path, content: object) -> None:
        with pytest.raises(WeightsError, match="not a readable checkpoint: it holds"):
            read(self.saved(tmp_path, content))

    def test_what_contains_itself(self, tmp_path: Path) -> None:
        endless: dict[str, object] = {}
        endless["state_dict"] = endless
        with pytest.raises(WeightsError, match="and no tensors"):
            read(self.saved(tmp_path, endless))

    def test_what_a_training_leaves_beside(self, tmp_path: Path) -> None:
        state = {"_orig_mod.module.a": torch.ones(2)}
        assert list(read(self.saved(tmp_path, {"epoch": torch.tensor(3), "state_dict": state}))) == ["a"]

    def test_a_part_of_a_larger_one(self, tmp_path: Path) -> None:
        torch.manual_seed(3)
        state = timm.create_model("test_vit", num_classes=0).state_dict()
        larger = {f"backbone.{name}": tensor for name, tensor in state.items()} | {"backbone.extra.x": torch.ones(1)}
        path = str(self.saved(tmp_path, {**larger, "text.y": torch.ones(1)}))
        options = {"prefix": "backbone.", "ignore": ("extra.*",)}
        extractor = build(ExtractorConfig("mine", "test_vit", weights=path, **options))
        for name, tensor in extractor.model.state_dict().items():
            assert torch.equal(tensor, state[name])
        with pytest.raises(WeightsError, match=r"has no tensors under encoder\.; there is backbone\."):
            build(ExtractorConfig("mine", "test_vit", weights=path, prefix="encoder."))
        with pytest.raises(WeightsError, match=r"has unknown 1 tensor\(s\), for instance extra\.x"):
            build(ExtractorConfig("mine", "test_vit", weights=path, prefix="backbone."))


class _Refusing(BaseHTTPRequestHandler):
    """A proxy that wants a password."""

    def do_CONNECT(self) -> None:
        self.send_error(407)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_torch_hub_goes_the_way_of_the_others(variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    before = getattr(urllib.request, "_opener", None)
    with web_server(_Refusing) as url:
        monkeypatch.setenv(variable, url)
        with pytest.raises(ExtractorError, match=rf"that {variable} names wants a password \(HTTP 407\)"):
            create("hub", "owner/repository:main/entry")
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        with static_server(tmp_path) as direct, files.environment_proxies():
            monkeypatch.setenv("HTTP_PROXY", url)
            (tmp_path / "file").write_text("here")
            assert urllib.request.urlopen(f"{direct}/file").read() == b"here"
    assert getattr(urllib.request, "_opener", None) is before


def test_a_file_of_authorities_that_is_none_is_named_for_torch_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "authorities").write_text("none")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authorities"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ExtractorError, match=r"REQUESTS_CA_BUNDLE=.*is no file of certificates"):
        create("hub", "owner/repository:main/entry")
