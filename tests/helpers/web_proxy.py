"""An HTTP proxy on this machine, and a website behind it that has one file for all who ask.

with proxying(plain=site, secure=tls_site) as (address, asked):
    os.environ["http_proxy"] = address           # "127.0.0.1:3128"
    asked                                        # ["GET http://host.invalid/0.png", "CONNECT host.invalid:443"]
"""

from __future__ import annotations

import base64
import hashlib
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.helpers.servers import web_server

DATA = b"\x89PNG of anybody"


class Site(BaseHTTPRequestHandler):
    """The same bytes under every name, with what websites, S3 and the hub say of a file."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.send_header("ETag", f'"{hashlib.sha256(DATA).hexdigest()}"')
        self.send_header("Last-Modified", "Sun, 01 Mar 2026 12:00:00 GMT")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(DATA)


class Proxy(BaseHTTPRequestHandler):
    """Leads to one plain and one TLS server, whatever host is named; one request to a connection, but for tunnels."""

    protocol_version = "HTTP/1.1"
    rbufsize = 0  # what is read here is not sent on
    asked: list[str]
    servers: dict[bool, tuple[str, int]]
    login: str

    def do_GET(self) -> None:
        self.close_connection = True
        tunnel = self.command == "CONNECT"
        self.asked.append(f"{self.command} {self.path}")
        expected = f"Basic {base64.b64encode(self.login.encode()).decode()}"
        if self.login and self.headers["Proxy-Authorization"] != expected:
            self.send_response(407)
            for name, value in {"Proxy-Authenticate": 'Basic realm="x"', "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        with suppress(OSError), socket.create_connection(self.servers[tunnel], 10) as server:
            if tunnel:
                self.send_response(200)
                self.end_headers()
            else:
                parts = urlsplit(self.path)
                headers = {k: v for k, v in self.headers.items() if not k.lower().startswith(("proxy-", "connection"))}
                head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Connection": "close"}.items())
                path = parts.path + ("?" * bool(parts.query)) + parts.query
                server.sendall(f"{self.command} {path} HTTP/1.1\r\n{head}\r\n".encode())
            other = {server: self.connection, self.connection: server}
            while ready := select.select([*other], [], [], 10)[0]:
                for one in ready:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    other[one].sendall(data)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_CONNECT = do_GET


@contextmanager
def proxying(plain: str, secure: str = "", login: str = "") -> Iterator[tuple[str, list[str]]]:
    """The address of a proxy, and what it was asked for; it leads to the servers of two URLs, and may want a login."""
    asked: list[str] = []
    servers = {tls: ("127.0.0.1", urlsplit(url).port) for tls, url in ((False, plain), (True, secure or plain))}
    with web_server(type("Leading", (Proxy,), {"asked": asked, "servers": servers, "login": login})) as url:
        yield url.removeprefix("http://"), asked
