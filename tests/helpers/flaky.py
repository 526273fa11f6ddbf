"""A proxy on this machine that spoils a share of the requests to an object store, as networks and stores do.

    with FlakyProxy(store.endpoint, Plan(rate=0.1, kinds=("cut", "short"), seed=1)) as proxy:
        fs = store.at(proxy.endpoint).filesystem()
        ...
    proxy.injected, proxy.requests        # how many, by kind and by method

    slowdown   503, S3's way to ask for fewer requests
    error      500, S3's internal error
    reset      the connection is reset; the request was not carried out
    hang       no answer at all; the request was not carried out
    lost       PUT, POST and DELETE: carried out, but the connection is reset instead of the answer
    cut        GET: the connection is reset in the middle of the body
    stall      GET: silence in the middle of the body
    truncated  GET: the connection ends properly in the middle of the body
    short      GET: a correct answer with half of the bytes; only who knows the size can tell

All else passes byte for byte, the Host header too, which S3's signatures cover.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import socketserver
import struct
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, BinaryIO, NamedTuple

Stream = BinaryIO | BufferedIOBase
BODY = ("cut", "stall", "truncated", "short")
KINDS = ("slowdown", "error", "reset", "hang", "lost", *BODY)
ANSWERS = {
    "slowdown": ("503 Service Unavailable", "SlowDown", "Please reduce your request rate."),
    "error": ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
}


@dataclass(frozen=True)
class Plan:
    """Which requests fail, and how: drawn by seed, method, target, Range and the number of times that it was asked
    for, so that the order in which parallel requests arrive does not matter."""

    rate: float = 0.0
    """Share of the requests that fail, of those which one of the `kinds` can befall."""
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    at_most: int = 2
    """Failures of one request in a row, so that a client that tries again gets on."""
    broken: re.Pattern[str] | None = None
    """Requests whose target, `/bucket/key?query` unquoted, this finds always fail, as `broken_as`."""
    broken_as: str = "error"
    silence_s: float = 60.0
    """How long `hang` and `stall` last if the client does not leave before; then the connection is closed."""


class FlakyProxy:
    """A context manager: it listens at `endpoint`, and forwards to the URL `upstream`. All threads and sockets are
    gone at its end, where an error in the proxy itself is raised."""

    def __init__(self, upstream: str, plan: Plan | None = None) -> None:
        url = urllib.parse.urlsplit(upstream)
        self.upstream = (url.hostname, url.port)
        self.plan = plan or Plan()
        self.injected: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._asked: Counter[tuple[str, ...]] = Counter()
        self._failed: Counter[tuple[str, ...]] = Counter()  # in a row
        self._lock = threading.Lock()

    def __enter__(self) -> FlakyProxy:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        for client in list(self._server.clients):
            with contextlib.suppress(OSError):  # it may have left just now
                client.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # joins the connections' threads
        if self._server.errors:
            raise self._server.errors[0]

    def choose(self, method: str, target: str, byte_range: str) -> str:
        """The kind of failure for a request, or nothing."""
        plan, request = self.plan, (method, target, byte_range)
        fitting = [kind for kind in plan.kinds if _fits(kind, method)]
        with self._lock:
            self.requests[method] += 1
            self._asked[request] += 1
            draw = random.Random(f"{plan.seed} {request} {self._asked[request]}")
            kind = ""
            if plan.broken and plan.broken.search(urllib.parse.unquote(target)):
                kind = plan.broken_as
            elif fitting and self._failed[request] < plan.at_most and draw.random() < plan.rate:
                kind = draw.choice(fitting)
            self._failed[request] = self._failed[request] + 1 if kind else 0
        return kind

    def count(self, kind: str) -> None:
        with self._lock:
            self.injected[kind] += 1


class _Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128

    def __init__(self, proxy: FlakyProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.proxy = proxy
        self.clients: set[Any] = set()
        self.errors: list[BaseException] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.clients.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.clients.discard(request)
        request.close()  # without the base class's shutdown, whose FIN would come before a reset

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        assert error is not None
        self.errors.append(error)


class _Head(NamedTuple):
    """The first line and the header fields of a request or an answer."""

    raw: bytes
    words: list[str]
    fields: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.fields.get("content-length", 0))


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # a client that leaves, and the proxy's end
            while self._exchange():
                pass

    def _exchange(self) -> bool:
        """One request and its answer; whether the connection goes on."""
        request = _read_head(self.rfile)
        if request is None:
            return False
        method, target = request.words[:2]
        kind = self.server.proxy.choose(method, target, request.fields.get("range", ""))
        if kind in ANSWERS:
            return self._refuse(kind, request)
        if kind in ("reset", "hang"):
            self.server.proxy.count(kind)
            return self._break(kind)
        with socket.create_connection(self.server.proxy.upstream, timeout=60) as upstream:
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with upstream.makefile("rb") as answers:
                upstream.sendall(request.raw)
                if "expect" not in request.fields:
                    _copy_body(self.rfile, upstream.sendall, request)
                answer = _read_head(answers)
                if answer and answer.words[1] == "100":
                    self.wfile.write(answer.raw)
                    _copy_body(self.rfile, upstream.sendall, request)
                    answer = _read_head(answers)
                if answer is None:
                    return False
                return self._answer(kind, method, answer, answers)

    def _answer(self, kind: str, method: str, answer: _Head, answers: BinaryIO) -> bool:
        success = answer.words[1].startswith("2")
        if kind == "lost" and success:
            self.server.proxy.count(kind)
            return self._break(kind)
        if kind in BODY and success and answer.length > 1:
            half = answer.length // 2
            self.server.proxy.count(kind)
            self.wfile.write(_shortened(answer.raw, half) if kind == "short" else answer.raw)
            _copy(answers, self.wfile.write, half)
            return self._break(kind)
        self.wfile.write(answer.raw)
        if method != "HEAD" and answer.words[1] not in ("204", "304"):
            _copy_body(answers, self.wfile.write, answer)
        return True

    def _refuse(self, kind: str, request: _Head) -> bool:
        status, code, message = ANSWERS[kind]
        if "expect" in request.fields:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        _copy_body(self.rfile, len, request)  # unread, it would turn the answer into a reset
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        self.server.proxy.count(kind)
        self.wfile.write((head + body * (request.words[0] != "HEAD")).encode())
        return True

    def _break(self, kind: str) -> bool:
        """Do to the connection what the kind says; whether it goes on."""
        if kind in ("reset", "lost", "cut"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif kind in ("hang", "stall"):
            end = time.monotonic() + self.server.proxy.plan.silence_s
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(1 << 16):
                    break
        return kind == "short"


def _fits(kind: str, method: str) -> bool:
    if kind in BODY:
        return method == "GET"
    return kind != "lost" or method in ("PUT", "POST", "DELETE")


def _read_head(stream: Stream) -> _Head | None:
    """The next head, or None at the end of the stream."""
    lines: list[bytes] = []
    while lines[-1:] != [b"\r\n"]:
        line = stream.readline()
        if not line:
            return None
        lines.append(line)
    pairs = (line.decode("latin-1").partition(":") for line in lines[1:-1])
    fields = {name.lower(): value.strip() for name, _, value in pairs}
    return _Head(b"".join(lines), lines[0].decode("latin-1").split(), fields)


def _copy_body(source: Stream, sink: Callable[[bytes], object], head: _Head) -> None:
    if "chunked" not in head.fields.get("transfer-encoding", ""):
        _copy(source, sink, head.length)
        return
    size = -1
    while size:
        line = source.readline()
        size = int(line.partition(b";")[0] or b"0", 16)
        sink(line)
        if size:
            _copy(source, sink, size + len(b"\r\n"))
    while line := source.readline():  # trailers, up to the empty line
        sink(line)
        if line == b"\r\n":
            break


def _copy(source: Stream, sink: Callable[[bytes], object], size: int) -> None:
    while size:
        block = source.read1(min(size, 1 << 16))
        if not block:
            raise ConnectionError("the other side has left")
        sink(block)
        size -= len(block)


def _shortened(head: bytes, length: int) -> bytes:
    """A head whose fields all say that the body has this length."""
    head = re.sub(rb"(?im)^(content-length: *)\d+", rb"\g<1>%d" % length, head)
    return re.sub(rb"(?im)^(content-range: *bytes (\d+)-)\d+", lambda m: m[1] + b"%d" % (int(m[2]) + length - 1), head)
