"""How this machine reaches the web: the proxies and certificates that its environment names, for every client alike.

    proxy("https://host/x")             # the proxy to go through, and the variable that names it; None if it is direct
    context()                           # TLS that trusts the system's authorities and those that a variable names
    fault(error, "https://host/x")      # a client's error as a line for people, if it is one of the way to the host

Proxies: http_proxy, https_proxy, else all_proxy, in small or capital letters (small ones win), and no_proxy: names of
hosts (and of all below them, with or without a leading dot or `*.`), addresses, networks (10.0.0.0/8, fd00::/8), each
with a port or without, or `*`. Authorities: all of `AUTHORITIES`, beside the system's. Each client asks here (of files
in files.py, the hub's in hub_client.py, fsspec's and S3's in pipeline/storage/clients.py); none reads the environment
itself.
"""

from __future__ import annotations

import base64
import errno
import functools
import ipaddress
import os
import re
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from extractors.errors import Refused, Unreachable, WebError

AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
"""Variables that name authorities to trust: a file of certificates, or folders as `openssl rehash` makes them."""
NOWHERE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES)
GATEWAY = (502, 503, 504)
"""Answers of a proxy that did not reach the host itself."""
PORTS = {"http": 80, "https": 443}

_answered: set[str] = set()
"""Hosts that have answered in this process: what refuses a connection there may be a restart."""


class Proxy(NamedTuple):
    url: str
    """With what may be a password."""
    variable: str
    """What names it."""

    def __str__(self) -> str:
        parts = urllib.parse.urlsplit(self.url)
        return f"the proxy {parts.hostname}:{parts.port or PORTS[parts.scheme]} that {self.variable} names"

    def __repr__(self) -> str:
        return str(self)  # without what may be a password

    @property
    def credentials(self) -> tuple[str, str] | None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.username is None:
            return None
        return urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")

    @property
    def login(self) -> str:
        """What an Authorization header says to it, or nothing."""
        return f"Basic {base64.b64encode(':'.join(self.credentials).encode()).decode()}" if self.credentials else ""

    @property
    def bare(self) -> str:
        """Its URL without a password."""
        parts = urllib.parse.urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], path="", query="", fragment="").geturl()


def proxy(url: str) -> Proxy | None:
    """The proxy that the environment names for a URL, or None. Raises `Refused` for what is no HTTP proxy."""
    parts, proxies = urllib.parse.urlsplit(url), urllib.request.getproxies()
    kind = parts.scheme if proxies.get(parts.scheme) else "all"
    address = proxies.get(kind, "")
    if not address or parts.scheme not in PORTS or _direct(parts, proxies.get("no", "")):
        return None
    name = f"{kind}_proxy"
    variable = next((spelling for spelling in (name, name.upper()) if os.environ.get(spelling)), name.upper())
    address = address if "://" in address else f"http://{address.lstrip('/')}"
    try:
        parts = urllib.parse.urlsplit(address)
        sound = parts.hostname and parts.port != 0 and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        sound = False
    if sound and parts.scheme not in PORTS:
        raise Refused(f"{variable}: a proxy of kind {parts.scheme}:// is not known here; give http://HOST:PORT")
    if not sound:
        raise Refused(f"{variable}: give http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, signs as %XX")
    return Proxy(parts.geturl(), variable)


def _direct(parts: urllib.parse.SplitResult, without: str) -> bool:
    """Whether no_proxy names a host, or the system's settings do where the environment says nothing."""
    host, port = (parts.hostname or "").rstrip("."), parts.port or PORTS[parts.scheme]
    address = _address(host)
    for name in re.split(r"[,\s]+", without.lower()):
        if name == "*":
            return True
        pattern, colon, pattern_port = name.rpartition(":")
        if not colon or not pattern_port.isdecimal() or (":" in pattern and not pattern.endswith("]")):
            pattern, pattern_port = name, str(port)  # without a port, or an IPv6 address without brackets
        pattern = pattern.removeprefix("*").strip(".[]")
        if not pattern or int(pattern_port) != port:
            continue
        if address is None:
            if host == pattern or host.endswith(f".{pattern}"):
                return True
        elif (network := _network(pattern)) and address in network:
            return True
    return not urllib.request.getproxies_environment() and bool(urllib.request.proxy_bypass(host))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def bundles() -> dict[str, str]:
    """Files and folders of authorities, by the variable that names each."""
    return {name: os.environ[name] for name in AUTHORITIES if os.environ.get(name)}


def context() -> ssl.SSLContext:
    """For a client's TLS. Raises `Refused` if a variable names what holds no certificates."""
    return _context(tuple(bundles().items()))


@functools.lru_cache(4)
def _context(named: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    made = ssl.create_default_context()
    trust(made)
    return made


def trust(made: ssl.SSLContext) -> None:
    """Let a context trust the system's authorities, and those that the environment names. Raises `Refused`."""
    usual = ssl.get_default_verify_paths()  # the file of the system too, which OpenSSL leaves out for SSL_CERT_FILE
    for path in (usual.openssl_cafile, usual.openssl_capath):
        if Path(path).exists():
            _load(made, path)
    loaded = set()
    for name, value in bundles().items():
        for path in value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]:
            if path in loaded or not path:
                continue
            try:
                _load(made, path)
            except OSError as error:  # ssl's too
                why = "is no file of certificates (PEM)" if isinstance(error, ssl.SSLError) else error.strerror
                raise Refused(f"{name}={path}: {why}") from None
            loaded.add(path)


def _load(made: ssl.SSLContext, path: str) -> None:
    if Path(path).is_dir():
        made.load_verify_locations(capath=path)
    else:
        made.load_verify_locations(cafile=path)


def mark_answered(url: str) -> None:
    """Note that the host of a URL has answered in this process."""
    _answered.add(place(url))


def place(url: str) -> str:
    """Host and port, as they stand in a URL."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def through(url: str) -> str:
    """For the end of a line about a URL: through which proxy it was asked for, or nothing."""
    try:
        via = proxy(url)
    except Refused:
        return ""
    return f", through {via}" if via else ""


def web_error_behind(error: BaseException) -> WebError | None:
    """The first `WebError` among an error and its causes, or None."""
    return next((cause for cause in _causes(error) if isinstance(cause, WebError)), None)


def fault(error: BaseException, url: str) -> WebError | None:
    """What a client's error says of the way to a host: `Refused`, `Unreachable` if it has not answered before, or None
    where it is something else, or may pass."""
    where = place(url)
    if web_error := web_error_behind(error):
        return web_error
    causes, via = list(_causes(error)), proxy(url)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError) and hasattr(cause, "verify_message"):  # not aiohttp's
            return Refused(
                f"{where}: its certificate is not trusted ({cause.verify_message}{through(url)}); if it should be, "
                "name the file of its authority's certificate in SSL_CERT_FILE"
            )
        if via and (status := _tunnel(cause)):
            return refusal(via, status, url)
    if where in _answered:
        return None
    for cause in reversed(causes):  # from what OpenSSL says to what a client makes of it
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            why = getattr(cause, "reason", None) or cause  # aiohttp's errors have none
            return Unreachable(f"{where}: no TLS is spoken there ({why}{through(url)}); http:// perhaps?")
        if (words := _nobody(cause)) and via:
            return Unreachable(f"{via} {words}; mend {via.variable}, or name {_host(url)} in NO_PROXY")
        if words:
            return Unreachable(f"{where} {words}; is the address right, does it run, is a proxy needed (HTTPS_PROXY)?")
    return None


def refusal(via: Proxy, status: int, url: str) -> WebError:
    """What an answer of a proxy itself means, which was to reach a URL."""
    where = place(url)
    if status == 407:
        wrong = "does not accept the password in it" if via.credentials else "wants a password"
        return Refused(f"{via} {wrong} (HTTP 407): {via.variable}=http://USER:PASSWORD@HOST:PORT")
    if status in GATEWAY and where not in _answered:
        return Unreachable(f"{via} does not reach {where} (HTTP {status})")
    kind = WebError if status in (*GATEWAY, 408, 429, 500) else Refused
    return kind(f"{via} refuses to reach {where} (HTTP {status}); name it in NO_PROXY if it is not to be used")


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it wraps, in the ways of urllib, aiohttp, botocore and httpx."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        wrapped = getattr(one, "kwargs", None)
        waiting += [getattr(one, name, None) for name in ("certificate_error", "os_error", "reason")]
        waiting += [wrapped.get("error") if isinstance(wrapped, dict) else None, one.__cause__, one.__context__]


def _tunnel(cause: BaseException) -> int:
    """The status with which a proxy refused a tunnel; 0 if that is not what it is about."""
    if isinstance(status := getattr(cause, "status", None), int):
        return status
    match = re.match(r"(?:Tunnel connection failed: )?([3-5]\d\d)\b", str(cause))
    named = type(cause) is OSError or type(cause).__name__ == "ProxyError"
    return int(match[1]) if match and named else 0


def _nobody(cause: BaseException) -> str:
    """How it is said that nobody answers, or nothing."""
    if isinstance(cause, socket.gaierror):
        return "is not known: there is no such host, or no name server"
    if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
        return "refuses the connection"
    if isinstance(cause, OSError) and cause.errno in NOWHERE:
        return f"cannot be reached ({os.strerror(cause.errno)})"
    return ""


def is_page(data: bytes) -> bool:
    """Whether bytes begin as a web page does: what portals and proxies say instead of what was asked for."""
    return data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html"))
