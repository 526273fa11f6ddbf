"""The tools of other tests: the S3 server is one, and the proxy before it does each kind of harm, and counts it."""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import fsspec.asyn
import pytest
import s3fs
from fsspec.exceptions import FSTimeoutError

from tests.helpers.flaky import ANSWERS, BODY, KINDS, FlakyProxy, Plan
from tests.helpers.object_store import ObjectStore, serve

DATA = bytes(range(256)) * 4000
PATH = "shards/a b+ü.tar"
"""With characters that a signature and a URL spell differently."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with serve(tmp_path_factory.mktemp("s3")) as running:
        url = running.bucket("shards")
        assert url == "s3://shards"
        running.filesystem().pipe_file(PATH, DATA)
        yield running


@pytest.fixture
def proxied(store: ObjectStore) -> Iterator[Callable[..., tuple[FlakyProxy, s3fs.S3FileSystem]]]:
    """A proxy by its plan, and a file system behind it that does not try again by itself."""
    proxies = []

    def make(**plan: object) -> tuple[FlakyProxy, s3fs.S3FileSystem]:
        proxies.append(FlakyProxy(store.endpoint, Plan(**plan)))
        proxy = proxies[-1].__enter__()
        fs = store.at(proxy.endpoint).filesystem(config_kwargs={"retries": {"max_attempts": 0}})
        fs.retries = 1
        return proxy, fs

    yield make
    for proxy in proxies:
        proxy.__exit__()


def exercise(fs: s3fs.S3FileSystem, folder: str) -> None:
    fs.pipe_file(f"{folder}/x", b"one")
    fs.pipe_file(f"{folder}/y", DATA * 12)
    assert fs.cat_file(f"{folder}/y") == DATA * 12
    assert fs.cat_file(f"{folder}/y", start=100, end=300) == DATA[100:300]
    assert sorted(fs.ls(folder, detail=False, refresh=True)) == [f"{folder}/x", f"{folder}/y"]
    with fs.open(f"{folder}/y", "rb", block_size=5 << 20) as file:
        assert b"".join(iter(lambda: file.read(1 << 20), b"")) == DATA * 12
    with fs.open(f"{folder}/z", "wb", block_size=5 << 20) as file:
        file.write(DATA * 12)  # in parts
    assert fs.info(f"{folder}/z")["size"] == len(DATA) * 12
    fs.rm(folder, recursive=True)
    fs.invalidate_cache()
    assert not fs.exists(f"{folder}/x")


def test_the_store_is_an_s3(store: ObjectStore) -> None:
    exercise(store.filesystem(), "shards/direct")
    for wrong in (replace(store, secret="wrong"), replace(store, key="wrong")):
        for method, arguments in (("ls", ["shards"]), ("cat_file", [PATH]), ("pipe_file", [PATH, b""])):
            with pytest.raises(PermissionError):
                getattr(wrong.filesystem(), method)(*arguments)


def test_the_environment_leads_there(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    assert s3fs.S3FileSystem(skip_instance_cache=True).cat_file(PATH) == DATA


def test_conditions(store: ObjectStore) -> None:
    """A PUT that must not overwrite, a PUT and a GET of a known version."""
    fs = store.filesystem()
    fs.pipe_file("shards/once", b"first", mode="create")
    with pytest.raises(OSError, match="pre-conditions"):
        fs.pipe_file("shards/once", b"second", mode="create")
    tag = fs.info("shards/once")["ETag"]
    for call in ({"method": "get_object"}, {"method": "put_object", "Body": b"third"}):
        with pytest.raises(OSError, match="pre-conditions"):
            fs.call_s3(**call, Bucket="shards", Key="once", IfMatch='"0"')
        fs.call_s3(**call, Bucket="shards", Key="once", IfMatch=tag)
    assert fs.cat_file("shards/once") == b"third"


def test_without_faults_nothing_changes(proxied: Callable[..., tuple[FlakyProxy, s3fs.S3FileSystem]]) -> None:
    proxy, fs = proxied()
    exercise(fs, "shards/through")
    assert not proxy.injected
    assert {"GET", "PUT", "HEAD", "POST"} <= proxy.requests.keys()


def test_a_client_that_tries_again_gets_on(store: ObjectStore) -> None:
    kinds = ("error", "reset", "lost", "cut", "truncated")
    with FlakyProxy(store.endpoint, Plan(rate=0.3, kinds=kinds, at_most=1, seed=3)) as proxy:
        exercise(store.at(proxy.endpoint).filesystem(), "shards/flaky")
    assert 0 < proxy.injected.total() < proxy.requests.total()
    assert proxy.injected.keys() <= set(kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_what_it_says(
    kind: str, store: ObjectStore, proxied: Callable[..., tuple[FlakyProxy, s3fs.S3FileSystem]]
) -> None:
    """What a client without any cleverness sees, of a URL that needs no signature."""
    fs = store.filesystem()
    fs.pipe_file(f"shards/{kind}", b"old")
    proxy, _ = proxied(rate=1, kinds=(kind,), at_most=1, silence_s=0.5)
    method = "PUT" if kind == "lost" else "GET"
    url = urlsplit(fs.sign(PATH if method == "GET" else f"shards/{kind}", client_method=f"{method.lower()}_object"))
    address = urlsplit(proxy.endpoint).netloc
    connection = http.client.HTTPConnection(address, timeout=10)

    def ask() -> http.client.HTTPResponse:
        # Signed for the store itself: the Host that the client sends must arrive.
        headers = {"Host": url.netloc} | ({"Range": "bytes=1000-1999"} if method == "GET" else {})
        connection.request(method, f"{url.path}?{url.query}", b"new" if method == "PUT" else None, headers)
        return connection.getresponse()

    start = time.monotonic()
    if kind in ANSWERS:
        answer = ask()
        assert (answer.status, ANSWERS[kind][1] in answer.read().decode()) == (int(ANSWERS[kind][0][:3]), True)
    elif kind in ("reset", "lost"):
        with pytest.raises(ConnectionResetError):
            ask()
        assert fs.cat_file(f"shards/{kind}") == (b"new" if kind == "lost" else b"old")
    elif kind == "hang":
        with pytest.raises(http.client.RemoteDisconnected):
            ask()
    elif kind == "cut":
        answer = ask()
        assert answer.length == 1000
        with pytest.raises(ConnectionResetError):
            answer.read()
    elif kind in ("stall", "truncated"):
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask().read()
        assert caught.value.partial == DATA[1000:1500]
    else:
        answer = ask()
        assert answer.headers["Content-Range"] == f"bytes 1000-1499/{len(DATA)}"
        assert answer.read() == DATA[1000:1500]
    assert (time.monotonic() - start >= 0.5) == (kind in ("hang", "stall"))
    connection.close()

    answer = ask()  # at most one in a row
    assert answer.read() == (b"" if method == "PUT" else DATA[1000:2000])
    connection.close()
    assert (proxy.injected, proxy.requests) == ({kind: 1}, {method: 2})


@pytest.mark.parametrize("kind", ["hang", "stall"])
def test_who_leaves_a_silent_proxy_is_let_go(
    kind: str, proxied: Callable[..., tuple[FlakyProxy, s3fs.S3FileSystem]]
) -> None:
    """A deadline ends the wait, and leaves neither a connection nor a thread behind."""
    proxy, fs = proxied(broken=re.compile(r"a b\+ü"), broken_as=kind)
    fs.ls("shards")
    for _ in range(3):
        with pytest.raises(FSTimeoutError):
            fsspec.asyn.sync(fs.loop, fs._cat_file, PATH, start=0, end=100, timeout=0.3)
    start = time.monotonic()
    proxy.__exit__()
    assert time.monotonic() - start < 5
    assert proxy.injected == {kind: 3}


@pytest.mark.parametrize("kind", [kind for kind in BODY if kind != "stall"])
def test_what_s3fs_makes_of_a_spoilt_body(
    kind: str, proxied: Callable[..., tuple[FlakyProxy, s3fs.S3FileSystem]]
) -> None:
    """It notices all but the correct answer with too few bytes, when it asked for a range."""
    proxy, fs = proxied(rate=1, kinds=(kind,))
    if kind == "short":
        assert fs.cat_file(PATH, start=0, end=1000) == DATA[:500]
    else:
        with pytest.raises(Exception, match="payload is not completed"):
            fs.cat_file(PATH, start=0, end=1000)
    assert proxy.injected == {kind: 1}


def test_faults_are_drawn_by_seed(proxied: Callable[..., tuple[FlakyProxy, s3fs.S3FileSystem]]) -> None:
    requests = [("GET", f"/shards/{i % 50}", "") for i in range(1000)]

    def drawn(seed: int, order: int = 1) -> list[tuple[str, str]]:
        proxy, _ = proxied(rate=0.2, seed=seed, at_most=10)
        return sorted((request[1], proxy.choose(*request)) for request in requests[::order])

    assert drawn(1) == drawn(1, order=-1) != drawn(2)
    assert 150 < sum(bool(kind) for _, kind in drawn(1)) < 250
