"""Objects of any store: read and written with patience, in a stated time, or given up.

    fs, path = filesystem("s3://bucket/000.tar", options)
    patiently(lambda: call(fs, "cat_file", path), 120, path)          # bytes
    with open_object(fs, path, fs.info(path)) as file:                # seekable; goes on where a fault cut it off
        file.read(512)

Object stores refuse, stall, cut answers short and lose them. Whatever may pass is tried again with
growing random pauses until so many seconds have gone by without a byte; what cannot pass (nothing
there, no permission) is raised at once.
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

from extractors.download.web import Unreachable, WebError, is_page, through
from pipeline.errors import UserError
from pipeline.storage import clients
from pipeline.storage.ahead import FILES, SMALLEST, Ranges, begin, settle
from pipeline.storage.faults import OPTIONS, REFUSALS, lasts, status_of, unwrapped
from pipeline.storage.urls import check_store_options, redact

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE = 120.0
"""Seconds without a byte after which an object is given up."""
ATTEMPT_SHARE = 0.25
"""Share of the patience that one request may take before it counts as stalled."""
SLOWEST = 1 << 20
"""Bytes per second that a request is given time for beyond that."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0
QUIET_TRIES = 3
"""Tries before the log hears of it: a throttled store makes many."""
BLOCK = 8 << 20
"""Bytes of a range request: few requests, and little to ask for again."""
WHOLE = 1 << 30
"""Largest object that is held in memory because its server cannot give parts of it."""

PROTOCOLS = (
    *("file", "local", "memory", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"),
    *("hf", "hdfs", "webhdfs", "oci", "oss", "ftp", "sftp", "smb"),
)
"""Stores that hold objects and nothing else; fsspec's others unpack, cache, template or call programs."""

VERSIONS = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "blob_id"),
    *("mtime", "LastModified", "Last-Modified", "last_modified", "created"),
)
"""Where stores say which version of an object they hold, content before clock."""


class StoreFault(OSError):
    """A store went on failing for as long as was allowed; later, or elsewhere, it may not."""


def filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of a path or URL and the path on it. Raises `UserError` for a URL that is not opened."""
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
    if protocol in ("s3", "s3a"):  # botocore's ten connections would hold up what is asked for at once
        config = {"max_pool_connections": FILES, **options.get("config_kwargs", {})}
        options = {"version_aware": False, **options, "config_kwargs": config}  # or it is, by "?versionId=" in a name
    try:
        options = clients.heeding(protocol, options)
        # Not by `url_to_fs`, for which "::" in a name is a sign of chained file systems.
        found = fsspec.get_filesystem_class(protocol)
        fs = fsspec.filesystem(protocol, **{**found._get_kwargs_from_urls(url), **options})
        path: str = found._strip_protocol(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"{redact(url)}: cannot open this kind of URL ({error})") from None
    except TypeError as error:
        raise UserError(redact(f"{url}: an option of its store is wrong: {error}")) from None
    if protocol in ("s3", "s3a"):
        fs.retries = 1  # or its tries, five times five times botocore's, outlast any patience
        if not fs.version_aware:
            fs.split_path = partial(_bucket_and_key, fs)
    return fs, path


def _bucket_and_key(fs: Any, path: str) -> tuple[str, str, None]:
    """What s3fs's `split_path` does, which cuts every key at this sign, also where it reads no versions."""
    before, sign, after = path.partition("?versionId=")
    bucket, key, _ = type(fs).split_path(fs, before)
    return bucket, key + sign + after, None


def is_local(fs: Any) -> bool:
    return "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def patiently(action: Callable[[], T], seconds: float, name: str, impatient: bool = False) -> T:
    """What `action` returns, tried again after passing faults; `StoreFault` when it failed for so many seconds.

    `impatient` is whoever asks first: a host that has not answered yet in this process and cannot be reached is said to
    be so at once, with `Unreachable`. It may be misspelt; one that did answer is perhaps started again.
    """
    start = time.monotonic()
    tries = 0
    while True:
        try:
            return action()
        except Exception as caught:  # every store's client has exceptions of its own
            error = unwrapped(caught)
            status = status_of(error)
            if isinstance(error, Unreachable) and impatient:
                raise error from None
            if isinstance(error, OPTIONS) or (type(error) is TypeError and "unexpected keyword" in str(error)):
                raise UserError(redact(f"{name}: an option of its store is wrong: {error}")) from None
            if status in REFUSALS and not isinstance(error, REFUSALS[status]):
                raise REFUSALS[status](redact(f"{name}: {error}")) from None
            if lasts(error, status):
                if error is caught:
                    raise
                raise error from None
            tries += 1
            cause = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
            by = "" if isinstance(error, WebError) else through(name)
            pause = random.uniform(0, min(FIRST_PAUSE * 2**tries, LONGEST_PAUSE))
            if time.monotonic() + pause - start > seconds:
                raise StoreFault(
                    redact(f"{name}: given up after {tries} tries in {seconds:g} s: {cause}{by}")
                ) from None
            if tries > QUIET_TRIES:
                log.warning("%s", redact(f"{name}: trying again ({cause})"))
            time.sleep(pause)


def call(fs: Any, method: str, *arguments: Any, patience: float = PATIENCE, size: int = 0, **options: Any) -> Any:
    """A method of a file system, ended when it stalls: after a share of the patience and what `size` bytes may take.

    Synchronous file systems end by rules of their own.
    """
    if not fs.async_impl or fs.asynchronous:
        return getattr(fs, method)(*arguments, **options)
    seconds = stalled_after(patience, size)
    return fsspec.asyn.sync(fs.loop, getattr(fs, f"_{method}"), *arguments, timeout=seconds, **options)


def stalled_after(patience: float, size: int = 0) -> float:
    """Seconds after which a request for so many bytes counts as stalled."""
    return patience * ATTEMPT_SHARE + size / SLOWEST


def open_object(fs: Any, path: str, info: Mapping[str, Any], patience: float = PATIENCE) -> io.BufferedIOBase:
    """A seekable binary file over an object that its file system describes by `info`; resumes after faults.

    Raises `StoreFault` after `patience` seconds without a byte, or what cannot pass, such as `FileNotFoundError`.
    """
    if is_local(fs):
        file: io.BufferedIOBase = fs.open(path, "rb")
        return file
    size = info.get("size")
    if size == 0:
        return io.BytesIO()  # no server has a range of it
    if size is not None and (not is_web(fs) or patiently(lambda: _gives_ranges(fs, path, patience), patience, path)):
        return io.BufferedReader(Ranges(_Requests(fs, path, patience), int(size), BLOCK), min(BLOCK, int(size) + 1))
    if (size or 0) > WHOLE:
        raise UserError(f"{redact(path)}: its server gives no parts of objects, and this one is too large to be held")
    if not is_web(fs):
        return io.BytesIO(patiently(lambda: call(fs, "cat_file", path, patience=patience, size=WHOLE), patience, path))
    return io.BytesIO(patiently(lambda: _downloaded(fs, path, patience), patience, path))


def version(info: Mapping[str, Any]) -> str:
    """The store's version of an object: its ETag or checksum, else the time it was last written."""
    for key in VERSIONS:
        if info.get(key):
            return str(info[key]).strip('"')
    return ""


def whole(fs: Any, path: str, patience: float = PATIENCE, impatient: bool = False) -> bytes:
    """All bytes of an object as it was at one moment. Raises as `open_object`; `impatient` as for `patiently`."""

    def fetch() -> bytes:
        info = call(fs, "info", path, patience=patience)
        size = int(info.get("size") or 0)
        if size <= BLOCK:
            data = content(fs, path, patience, size=size)
        else:
            with open_object(fs, path, info, patience) as file:
                data = file.read()
            if version(call(fs, "info", path, patience=patience)) != version(info):
                raise OSError("it was replaced while it was read")
        if info.get("size") not in (None, len(data)):
            raise OSError(f"{len(data)} of {size} bytes came")
        return data

    return patiently(fetch, patience, path, impatient)


def content(fs: Any, path: str, patience: float = PATIENCE, most: int = WHOLE, size: int = BLOCK) -> bytes:
    """All bytes of an object of about that size, in one request; of a website `most` of them."""
    if is_web(fs):
        return _downloaded(fs, path, patience, most, size)
    # Of S3's client, which would ask for the size first, to see whether several requests are worth it.
    options = {"max_concurrency": 1} if hasattr(fs, "max_concurrency") else {}
    data: bytes = call(fs, "cat_file", path, patience=patience, size=size, **options)
    return data


def is_web(fs: Any) -> bool:
    return "http" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)


def _gives_ranges(fs: Any, url: str, patience: float) -> bool:
    """Whether a web server answers a request for a range with that range; asks for one byte, reads none."""
    asked = {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), "Range": "bytes=0-0"}}

    async def status() -> int:
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), **asked) as answer:
            fs._raise_not_found_for_status(answer, url)
            return int(answer.status)

    return bool(fsspec.asyn.sync(fs.loop, status, timeout=stalled_after(patience)) == 206)


def _downloaded(fs: Any, url: str, patience: float, most: int = WHOLE, size: int = WHOLE) -> bytes:
    """All of an object, in one request, as it lies there; `size` is about what it has."""
    asked = {**fs.kwargs, "headers": {"Accept-Encoding": "identity", **fs.kwargs.get("headers", {})}}

    # Some servers call the gzip of a .gz an encoding of the way, which clients undo; it is the file's own.
    packed = url.partition("?")[0].endswith(".gz")

    async def body() -> bytes:
        parts, come = [], 0
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), auto_decompress=not packed, **asked) as answer:
            fs._raise_not_found_for_status(answer, url)
            async for part in answer.content.iter_chunked(SMALLEST):
                parts.append(part)
                come += len(part)
                if come > most:
                    raise UserError(f"{redact(url)}: has more than {most} bytes, which are too many to be held")
        return refuse_page(url, b"".join(parts))

    data: bytes = fsspec.asyn.sync(fs.loop, body, timeout=stalled_after(patience, size))
    return data


def refuse_page(url: str, data: bytes) -> bytes:
    """Data as they are; `UserError` if they are a web page that a proxy sent instead."""
    if is_page(data) and (by := through(url)) and not url.partition("?")[0].endswith((".html", ".htm")):
        raise UserError(f"{redact(url)}: a web page came instead{by}")
    return data


class _Requests:
    """How an object is asked for its ranges: early where its file system has a loop, and with patience."""

    def __init__(self, fs: Any, path: str, patience: float) -> None:
        self._fs, self._path, self._patience = fs, path, patience

    def begin(self, start: int, end: int) -> Future[bytes] | None:
        return begin(self._fs, lambda: self._fs._cat_file(self._path, start=start, end=end))

    def answer(self, start: int, end: int, early: Future[bytes] | None) -> bytes:
        if early:
            return settle(early, stalled_after(self._patience, end - start))
        data: bytes = self._fs.cat_file(self._path, start=start, end=end)
        return data

    def patiently(self, action: Callable[[], bytes]) -> bytes:
        return patiently(action, self._patience, self._path)
