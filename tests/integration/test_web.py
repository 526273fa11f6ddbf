"""The way to the web is the environment's for every client: proxies, authorities, and hosts that refuse."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import pytest
import trustme

from extractors.download import files, web
from extractors.errors import Refused
from pipeline.cli.catalogue import main
from pipeline.errors import UserError
from pipeline.storage.folder import ObjectStore
from tests.helpers.servers import web_server
from tests.helpers.web_clients import (
    AT_ONCE,
    CLIENTS,
    GIVEN,
    LOGIN,
    SECRET,
    Client,
    catalogue,
    error_line,
    forget,
    free_port,
    s3,
    shard,
)
from tests.helpers.web_proxy import DATA, Site, proxying


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An environment that says nothing of the web, and clients that have met nobody."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in web.AUTHORITIES or name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("VDNA_CACHE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setattr(web, "_answered", set())
    monkeypatch.setattr(files, "PAUSE", 0.001)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    forget()
    yield
    forget()


class Sites(NamedTuple):
    """Two websites with the same file, and the authority that vouches for the second."""

    plain: str
    secure: str
    authority: Path

    def proxying(self, login: str = "") -> Any:
        return proxying(self.plain, self.secure, login)


def vouched(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """TLS with a certificate of an authority of its own, and the file of that."""
    authority, path = trustme.CA(), folder / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "host.invalid").configure_cert(context)
    return context, path


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    tls, authority = vouched(tmp_path_factory.mktemp("authority"))
    with web_server(Site) as plain, web_server(Site, tls) as secure:
        yield Sites(plain, secure, authority)


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({}, "http://a.example/x", ""),
        ({"http_proxy": "http://p:1"}, "http://a.example/x", "http_proxy http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "http://a.example/x", "HTTP_PROXY http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://a.example/x", ""),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example/x", "HTTPS_PROXY http://p:1"),
        ({"https_proxy": "https://p:1"}, "https://a.example/x", "https_proxy https://p:1"),
        ({"HTTP_PROXY": "http://p:1", "http_proxy": "http://q:2"}, "http://a.example", "http_proxy http://q:2"),
        ({"HTTP_PROXY": "http://p:1", "http_proxy": ""}, "http://a.example", ""),
        ({"all_proxy": "http://p:1"}, "http://a.example", "all_proxy http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "https://a.example", "ALL_PROXY http://p:1"),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "https://a.example", "HTTPS_PROXY http://q:2"),
        ({"ALL_PROXY": "http://p:1"}, "s3://bucket/x", ""),
        ({"http_proxy": "p:1"}, "http://a.example", "http_proxy http://p:1"),
        ({"http_proxy": "//p:1/"}, "http://a.example", "http_proxy http://p:1/"),
        ({"http_proxy": "HTTP://p:1"}, "http://a.example", "http_proxy http://p:1"),
        ({"http_proxy": f"{GIVEN}@p:1"}, "http://a.example", f"http_proxy http://{GIVEN}@p:1"),
        ({"http_proxy": "[fd00::1]:1"}, "http://[::1]:9000/x", "http_proxy http://[fd00::1]:1"),
    ],
)
def test_the_proxy_of_a_url(
    environment: dict[str, str], url: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = web.proxy(url)
    assert (f"{proxy.variable} {proxy.url}" if proxy else "") == expected


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(
    ("without", "direct", "through"),
    [
        ("a.example", "a.example b.a.example A.EXAMPLE a.example. a.example:8080", "example aa.example a.example.org"),
        (".a.example", "a.example b.a.example c.b.a.example", "aa.example"),
        ("*.a.example", "a.example b.a.example", "aa.example"),
        ("a.example:8080", "a.example:8080 b.a.example:8080", "a.example a.example:80 a.example:443"),
        ("a.example:80", "a.example a.example:80", "a.example:8080"),
        ("10.1.2.3", "10.1.2.3 10.1.2.3:9000", "10.1.2.30 110.1.2.3 a.example"),
        ("2.3, 3", "2.3", "10.1.2.3"),
        ("10.0.0.0/8", "10.0.0.1 10.255.3.4:9000", "11.0.0.1 10.example"),
        ("10.1.2.3/8", "10.9.9.9", "11.1.2.3"),
        ("10.0.0.0/8:9000", "10.0.0.1:9000", "10.0.0.1"),
        ("::1", "[::1] [::1]:9000 [0:0:0:0:0:0:0:1]", "[::2] 1.example"),
        ("[::1]", "[::1] [::1]:9000", "[::2]"),
        ("[::1]:9000", "[::1]:9000", "[::1]"),
        ("fd00::/8", "[fd12::1] [fdff::2]:9000", "[fe80::1] 10.0.0.1"),
        ("*", "a.example 10.0.0.1 [::1]:9000", ""),
        ("x.example, *", "a.example", ""),
        (" , a.example ,b.example  c.example,", "a.example b.example c.example", "d.example"),
        ("a.example,,", "a.example", "example 10.0.0.1"),
        ("https://a.example", "", "b.example"),
        ("10.0.0.0/99 [ : .", "", "10.0.0.1 a.example [::1]"),
        ("", "", "a.example"),
    ],
)
def test_what_no_proxy_names(
    without: str, direct: str, through: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv(variable, without)
    results = {host: web.proxy(f"http://{host}/x") is None for host in f"{direct} {through}".split()}
    assert results == {**dict.fromkeys(direct.split(), True), **dict.fromkeys(through.split(), False)}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (f"socks5://{GIVEN}@p:1", "a proxy of kind socks5://"),
        ("socks://p:1", "a proxy of kind socks://"),
        ("http://", "http://HOST:PORT"),
        ("http://p:port", "http://HOST:PORT"),
        ("http://p:70000", "http://HOST:PORT"),
        ("http://p:0", "http://HOST:PORT"),
        ("http://me:geh/eim@p:1", "signs as %XX"),
        ("http://me:geh#eim@p:1", "signs as %XX"),
        ("http://me:geh?eim@p:1", "signs as %XX"),
        ("http://me:geh[eim@p:1", "signs as %XX"),
        ("me:geh/eim@p:1", "signs as %XX"),
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_what_is_no_proxy(value: str, words: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(Refused, match=f"^{variable}: .*{words}") as caught:
        web.proxy("http://host.invalid")
    assert "geh" not in str(caught.value)


@CLIENTS
@pytest.mark.parametrize("value", [f"socks5h://{GIVEN}@p:1", "http://me:geh/eim@p:1"])
def test_clients_say_what_is_no_proxy(client: Client, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    assert "ALL_PROXY: " in error_line(client, "http://host.invalid")


def test_passwords_of_proxies_are_used_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{GIVEN}@p:3128/")
    proxy = web.proxy("https://host.invalid")
    assert proxy is not None
    assert proxy.credentials == ("me", SECRET)
    assert proxy.bare == "http://p:3128"
    assert f"{proxy}" == "the proxy p:3128 that HTTPS_PROXY names"
    assert not any(
        "geh" in shown for shown in (str(proxy), repr(proxy), repr([proxy]), web.through("https://host.invalid"))
    )


@CLIENTS
@pytest.mark.parametrize("login", ["", LOGIN], ids=["open", "login"])
@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
def test_clients_go_through_the_proxy(
    client: Client, login: str, variable: str, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = "http" if variable == "http_proxy" else "https"
    monkeypatch.setenv("SSL_CERT_FILE", str(sites.authority))
    with sites.proxying(login) as (address, asked):
        monkeypatch.setenv(variable, f"http://{GIVEN}@{address}" if login else address)
        assert client(f"{scheme}://host.invalid") == DATA
    kinds = {line.split("/")[0] + "//host.invalid" for line in asked} if scheme == "http" else set(asked)
    assert kinds <= {"GET http://host.invalid", "HEAD http://host.invalid", "CONNECT host.invalid:443"}
    assert kinds


@CLIENTS
def test_clients_go_direct_where_no_proxy_says_so(
    client: Client, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sites.proxying() as (address, asked):
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("NO_PROXY", "example.org, 127.0.0.0/8")
        assert client(sites.plain) == DATA
    assert not asked


@CLIENTS
@pytest.mark.parametrize("given", ["", "me:gehraten@"], ids=["none", "wrong"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password(
    client: Client, given: str, scheme: str, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"{scheme.upper()}_PROXY"
    with sites.proxying(LOGIN) as (address, asked):
        monkeypatch.setenv(variable, f"http://{given}{address}")
        line = error_line(client, f"{scheme}://host.invalid")
    assert f"the proxy {address} that {variable} names" in line
    assert ("does not accept the password" if given else "wants a password") in line
    assert len(asked) <= 2, "nothing is tried again; of a website fsspec asks first HEAD, then GET"


@CLIENTS
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_dead_proxy(client: Client, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(f"{scheme}_proxy", f"http://{GIVEN}@{address}")
    line = error_line(client, f"{scheme}://host.invalid")
    assert f"the proxy {address} that {scheme}_proxy names refuses the connection" in line
    assert "name host.invalid in NO_PROXY" in line


@CLIENTS
def test_a_certificate_of_nobody_known(client: Client, sites: Sites) -> None:
    line = error_line(client, sites.secure)
    assert sites.secure.removeprefix("https://") in line
    assert "certificate is not trusted" in line
    assert "SSL_CERT_FILE" in line


@CLIENTS
@pytest.mark.parametrize("variable", web.AUTHORITIES)
def test_an_authority_of_ones_own(
    client: Client, variable: str, sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of the system stay, which here is another authority."""
    tls, others = vouched(tmp_path)
    usual = ssl.get_default_verify_paths()._replace(openssl_cafile=str(others), openssl_capath=str(tmp_path / "none"))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: usual)
    web._context.cache_clear()
    monkeypatch.setenv(variable, str(sites.authority))
    if variable == "SSL_CERT_DIR":
        monkeypatch.setenv(variable, f"{tmp_path}{os.pathsep}{hashed(sites.authority, tmp_path)}")
    assert client(sites.secure) == DATA
    with web_server(Site, tls) as url:
        shutil.rmtree(tmp_path / "vdna_cache", ignore_errors=True)
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        assert client(url) == DATA
    web._context.cache_clear()


@CLIENTS
def test_an_authority_named_after_the_first_try(client: Client, sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the line about the first asks for it, in the same process."""
    assert "SSL_CERT_FILE" in error_line(client, sites.secure)
    monkeypatch.setenv("SSL_CERT_FILE", str(sites.authority))
    assert client(sites.secure) == DATA


def hashed(authority: Path, folder: Path) -> Path:
    """A folder of authorities, as OpenSSL reads it."""
    if not shutil.which("openssl"):
        pytest.skip("openssl, which names files of such folders, is not there")
    made = folder / "certificates"
    made.mkdir()
    shutil.copy(authority, made)
    subprocess.run(["openssl", "rehash", made], check=True)
    return made


def test_the_authorities_of_the_system_stay(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ssl.create_default_context().cert_store_stats()["x509_ca"]
    if not theirs:
        pytest.skip("this system has no file of authorities")
    monkeypatch.setenv("SSL_CERT_FILE", str(sites.authority))
    assert web.context().cert_store_stats()["x509_ca"] == theirs + 1


@CLIENTS
@pytest.mark.parametrize(("variable", "exists"), [(name, i % 2 == 1) for i, name in enumerate(web.AUTHORITIES)])
def test_a_variable_that_names_no_authorities(
    client: Client, variable: str, exists: bool, sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle.pem"
    if exists:
        path.write_text("no certificate\n")
    monkeypatch.setenv(variable, str(path))
    assert f"{variable}={path}: " in error_line(client, sites.secure)
    if client is not s3:
        assert client(sites.plain) == DATA, "it is of no account to who needs no TLS"


@CLIENTS
def test_nobody_listens(client: Client) -> None:
    address = f"127.0.0.1:{free_port()}"
    for scheme in ("http", "https"):
        assert f"{address} refuses the connection; is the address right" in error_line(client, f"{scheme}://{address}")


def test_a_catalogue_where_nobody_listens(capfd: pytest.CaptureFixture[str]) -> None:
    url, start = f"http://127.0.0.1:{free_port()}/c", time.monotonic()
    assert main(["--catalogue", url, "list"]) == 2
    assert time.monotonic() - start < AT_ONCE
    assert f"error: catalogue={url}: cannot be read (" in (line := capfd.readouterr().err)
    assert "refuses the connection" in line
    assert line.count("\n") == 1


@CLIENTS
def test_a_website_without_tls(client: Client, sites: Sites) -> None:
    assert "no TLS is spoken there" in error_line(client, sites.plain.replace("http:", "https:"))


@pytest.mark.parametrize("client", [shard, catalogue, s3], ids=lambda client: client.__name__)
def test_who_answered_before_is_waited_for(client: Client) -> None:
    with web_server(Site) as url:
        assert client(url) == DATA
    port, back = int(url.rpartition(":")[2]), threading.Event()

    def again() -> None:
        time.sleep(1)
        with web_server(Site, port=port):
            back.set()
            done.wait(30)

    done = threading.Event()
    thread = threading.Thread(target=again)
    thread.start()
    try:
        assert client(url) == DATA
        assert back.is_set()
    finally:
        done.set()
        thread.join()


def test_but_not_for_ever() -> None:
    with web_server(Site) as url:
        folder = ObjectStore(f"{url}/public", patience=2)
        assert folder.get("catalogue.json") == DATA
    start = time.monotonic()
    with pytest.raises(UserError, match=r"given up after \d+ tries in 2 s: "):
        folder.get("catalogue.json")
    assert 2 <= time.monotonic() - start < AT_ONCE
