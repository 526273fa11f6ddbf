"""Reading objects of any store, with retries and timeouts.

    fs, path = filesystem("s3://bucket/000.tar", options)
    retry(lambda: call(fs, "cat_file", path), 120, path)              # bytes
    with open_object(fs, path, fs.info(path)) as file:                # seekable; resumes after faults
        file.read(512)

Object stores refuse requests, stall, truncate answers and lose them. A passing fault is retried after random, growing
pauses, until `patience` seconds have gone by without a byte. A permanent fault (no such object, no permission) is
raised at once.
"""

from __future__ import annotations

import io
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec.asyn
import fsspec.core

from distributions.errors import VDNAError
from extractors.download.web import is_page, through
from extractors.errors import Unreachable, WebError
from pipeline.errors import UserError
from pipeline.storage import clients
from pipeline.storage.ahead import MAX_FILES_AHEAD, MIN_RANGE_BYTES, RangeReader, begin, wait_for
from pipeline.storage.faults import OPTION_ERRORS, REFUSALS, is_permanent, root_cause, status_of
from pipeline.storage.urls import check_store_options, redact

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE = 120.0
"""Default number of seconds without a byte after which reading an object is given up."""
REQUEST_SHARE = 0.25
"""Share of the patience that one request may take before it counts as stalled, apart from the time for its bytes."""
MIN_BYTES_PER_SECOND = 1 << 20
"""Slowest transfer that a request is given time for."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0
QUIET_TRIES = 3
"""Tries before the log reports a retry: a throttled store causes many."""
BLOCK = 8 << 20
"""Bytes of a range request: large enough for few requests, small enough to repeat one."""
MAX_IN_MEMORY = 1 << 30
"""Bytes of the largest object that is held in memory because its server does not serve ranges."""

PROTOCOLS = (
    *("file", "local", "memory", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"),
    *("hf", "hdfs", "webhdfs", "oci", "oss", "ftp", "sftp", "smb"),
)
"""Protocols that are opened. The other protocols of fsspec unpack archives, cache, fill templates or run programs."""

VERSIONS = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "blob_id"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "created"),
)
"""Keys under which file systems state an object's version. Hashes of the contents come before times."""


class StoreFault(VDNAError, OSError):
    """A store failed for longer than the patience. A later try may succeed."""


def filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of a path or URL, and the path on it. `options` are fsspec options of the store.

    Raises `UserError` for a protocol that is not opened, a password in the URL, or invalid options.
    """
    protocol = fsspec.core.split_protocol(url)[0] or "file"
    chained = "::" in url and "://" not in url and not Path(re.sub("(::[^/]*).*", r"\1", url)).exists()
    if protocol not in PROTOCOLS or chained:
        raise UserError(f"{redact(url)}: cannot open this kind of URL; allowed are paths and {', '.join(PROTOCOLS)}")
    # A bucket's name has no colon; a secret may hold a slash.
    if re.match(r"(https?|ftp|sftp|smb|s3a?)://[^/]*@|s3a?://[^/@]*:", url):
        raise UserError(
            f"{redact(url)}: a URL must not hold a password, it would be written down; "
            "use the store's environment variables or its storage options"
        )
    check_store_options(redact(url), options)
    if protocol in ("s3", "s3a"):  # botocore's default of ten connections is fewer than are used at once
        config = {"max_pool_connections": MAX_FILES_AHEAD, **options.get("config_kwargs", {})}
        options = {
            "version_aware": False,
            **options,
            "config_kwargs": config,
        }  # otherwise "?versionId=" in a name turns it on
    try:
        options = clients.with_environment(protocol, options)
        # `fsspec.url_to_fs` would take "::" in a name for a chain of file systems.
        kind = fsspec.get_filesystem_class(protocol)
        fs = fsspec.filesystem(protocol, **{**kind._get_kwargs_from_urls(url), **options})
        path: str = kind._strip_protocol(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{redact(url)}: cannot open this kind of URL ({error})") from None
    except TypeError as error:
        raise UserError(redact(f"{url}: an option of its store is wrong: {error}")) from None
    if protocol in ("s3", "s3a"):
        fs.retries = 1  # its default retries, five times five times botocore's, would outlast the patience
        if not fs.version_aware:
            fs.split_path = partial(_bucket_and_key, fs)
    return fs, path


def _bucket_and_key(fs: Any, path: str) -> tuple[str, str, None]:
    """Like s3fs's `split_path`, but "?versionId=" stays part of the key: s3fs cuts keys there in all cases."""
    start, mark, rest = path.partition("?versionId=")
    bucket, key, _ = type(fs).split_path(fs, start)
    return bucket, key + mark + rest, None


def is_local(fs: Any) -> bool:
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def retry(action: Callable[[], T], patience: float, name: str, fail_fast: bool = False) -> T:
    """Call `action` until it succeeds, and return its result.

    A permanent error is raised at once, unwrapped. After passing faults for `patience` seconds `StoreFault` is raised;
    `name` names the object in its message. With `fail_fast`, a host that cannot be reached and has not answered before
    in this process raises `Unreachable` at once: its name may be misspelt. A host that has answered may be restarting,
    and is retried.
    """
    start = time.monotonic()
    tries = 0
    while True:
        try:
            return action()
        except Exception as caught:  # every store's client has its own exceptions
            error = root_cause(caught)
            status = status_of(error)
            if isinstance(error, Unreachable) and fail_fast:
                raise error from None
            if isinstance(error, OPTION_ERRORS) or (type(error) is TypeError and "unexpected keyword" in str(error)):
                raise UserError(redact(f"{name}: an option of its store is wrong: {error}")) from None
            if status in REFUSALS and not isinstance(error, REFUSALS[status]):
                raise REFUSALS[status](redact(f"{name}: {error}")) from None
            if is_permanent(error, status):
                if error is caught:
                    raise
                raise error from None
            tries += 1
            cause = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
            proxy = "" if isinstance(error, WebError) else through(name)
            pause = random.uniform(0, min(FIRST_PAUSE * 2**tries, LONGEST_PAUSE))
            left = patience - (time.monotonic() - start)
            if left <= 0:
                raise StoreFault(
                    redact(f"{name}: given up after {tries} tries in {patience:g} s: {cause}{proxy}")
                ) from None
            if tries > QUIET_TRIES:
                log.warning("%s", redact(f"{name}: trying again ({cause})"))
            time.sleep(min(pause, left))


def call(fs: Any, method: str, *arguments: Any, patience: float = PATIENCE, size: int = 0, **options: Any) -> Any:
    """Call a method of a file system, with a timeout of `request_timeout(patience, size)` if the file system is
    asynchronous. Synchronous file systems have timeouts of their own."""
    if not fs.async_impl or fs.asynchronous:
        return getattr(fs, method)(*arguments, **options)
    seconds = request_timeout(patience, size)
    return fsspec.asyn.sync(fs.loop, getattr(fs, f"_{method}"), *arguments, timeout=seconds, **options)


def request_timeout(patience: float, size: int = 0) -> float:
    """Seconds after which a request for `size` bytes counts as stalled."""
    return patience * REQUEST_SHARE + size / MIN_BYTES_PER_SECOND


def open_object(fs: Any, path: str, info: Mapping[str, Any], patience: float = PATIENCE) -> io.BufferedIOBase:
    """Open an object as a seekable binary file that resumes after faults. `info` is the file system's description.

    Raises `StoreFault` after `patience` seconds without a byte, and permanent errors such as `FileNotFoundError`.
    """
    if is_local(fs):
        file: io.BufferedIOBase = fs.open(path, "rb")
        return file
    size = info.get("size")
    if size == 0:
        return io.BytesIO()  # no server serves a range of an empty object
    if size is not None and (not is_web(fs) or retry(lambda: _serves_ranges(fs, path, patience), patience, path)):
        return io.BufferedReader(
            RangeReader(_ObjectRanges(fs, path, patience), int(size), BLOCK), min(BLOCK, int(size) + 1)
        )
    if (size or 0) > MAX_IN_MEMORY:
        raise UserError(f"{redact(path)}: its server gives no parts of objects, and this one is too large to be held")
    if not is_web(fs):
        return io.BytesIO(
            retry(lambda: call(fs, "cat_file", path, patience=patience, size=MAX_IN_MEMORY), patience, path)
        )
    return io.BytesIO(retry(lambda: _download(fs, path, patience), patience, path))


def version(info: Mapping[str, Any]) -> str:
    """The store's version of an object: its ETag or checksum, else the time of its last change; "" if not stated."""
    for key in VERSIONS:
        if info.get(key):
            return str(info[key]).strip('"')
    return ""


def read_object(fs: Any, path: str, patience: float = PATIENCE, fail_fast: bool = False) -> bytes:
    """All bytes of an object, of one version. Raises as `open_object`; `fail_fast` is that of `retry`."""

    def fetch() -> bytes:
        info = call(fs, "info", path, patience=patience)
        size = int(info.get("size") or 0)
        if size <= BLOCK:
            data = read_at_once(fs, path, patience, size=size)
        else:
            with open_object(fs, path, info, patience) as file:
                data = file.read()
            if version(call(fs, "info", path, patience=patience)) != version(info):
                raise OSError("it was replaced while it was read")
        if info.get("size") not in (None, len(data)):
            raise OSError(f"{len(data)} of {size} bytes came")
        return data

    return retry(fetch, patience, path, fail_fast)


def read_at_once(
    fs: Any, path: str, patience: float = PATIENCE, max_bytes: int = MAX_IN_MEMORY, size: int = BLOCK
) -> bytes:
    """All bytes of an object in one request. `size` is about its size, for the timeout. Raises `UserError` if a website
    sends more than `max_bytes`."""
    if is_web(fs):
        return _download(fs, path, patience, max_bytes, size)
    # Without this option S3's client first asks for the size, to decide whether to make several requests.
    options = {"max_concurrency": 1} if hasattr(fs, "max_concurrency") else {}
    data: bytes = call(fs, "cat_file", path, patience=patience, size=size, **options)
    return data


def is_web(fs: Any) -> bool:
    return "http" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def _serves_ranges(fs: Any, url: str, patience: float) -> bool:
    """Whether a web server serves ranges. Requests one byte, and reads only the status."""
    options = {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), "Range": "bytes=0-0"}}

    async def status() -> int:
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), **options) as answer:
            fs._raise_not_found_for_status(answer, url)
            return int(answer.status)

    return bool(fsspec.asyn.sync(fs.loop, status, timeout=request_timeout(patience)) == 206)


def _download(fs: Any, url: str, patience: float, max_bytes: int = MAX_IN_MEMORY, size: int = MAX_IN_MEMORY) -> bytes:
    """The stored bytes of an object on a website, in one request. `size` is about its size, for the timeout."""
    options = {**fs.kwargs, "headers": {"Accept-Encoding": "identity", **fs.kwargs.get("headers", {})}}

    # Some servers declare the gzip of a .gz file as a transfer encoding, which clients would undo.
    packed = url.partition("?")[0].endswith(".gz")

    async def body() -> bytes:
        parts, received = [], 0
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), auto_decompress=not packed, **options) as answer:
            fs._raise_not_found_for_status(answer, url)
            async for part in answer.content.iter_chunked(MIN_RANGE_BYTES):
                parts.append(part)
                received += len(part)
                if received > max_bytes:
                    raise UserError(f"{redact(url)}: has more than {max_bytes} bytes, which are too many to be held")
        return refuse_page(url, b"".join(parts))

    data: bytes = fsspec.asyn.sync(fs.loop, body, timeout=request_timeout(patience, size))
    return data


def refuse_page(url: str, data: bytes) -> bytes:
    """Return `data`. Raises `UserError` if it is a web page that a proxy has sent in place of the object."""
    if is_page(data) and (proxy := through(url)) and not url.partition("?")[0].endswith((".html", ".htm")):
        raise UserError(f"{redact(url)}: a web page came instead{proxy}")
    return data


class _ObjectRanges:
    """Requests the ranges of an object: early if its file system has an event loop, and with retries."""

    def __init__(self, fs: Any, path: str, patience: float) -> None:
        self._fs, self._path, self._patience = fs, path, patience

    def begin(self, start: int, end: int) -> Future[bytes] | None:
        return begin(self._fs, lambda: self._fs._cat_file(self._path, start=start, end=end))

    def answer(self, start: int, end: int, early: Future[bytes] | None) -> bytes:
        if early:
            return wait_for(early, request_timeout(self._patience, end - start))
        data: bytes = self._fs.cat_file(self._path, start=start, end=end)
        return data

    def retry(self, action: Callable[[], bytes]) -> bytes:
        return retry(action, self._patience, self._path)
