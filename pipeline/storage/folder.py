"""A folder of objects in any store: a local disk, a bucket, a website. Writes are atomic.

store = ObjectStore("s3://bucket/catalogue")
store.put("site/index.html", page)        # a temporary file and a rename on a disk, one PUT in a bucket
store.get("site/index.html")
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from botocore.exceptions import NoCredentialsError, PartialCredentialsError
from fsspec import asyn

from pipeline.errors import DamagedError, UserError
from pipeline.storage import cache, disk
from pipeline.storage.objects import (
    BLOCK,
    MAX_IN_MEMORY,
    PATIENCE,
    call,
    filesystem,
    is_local,
    read_at_once,
    read_object,
    request_timeout,
    retry,
)
from pipeline.storage.urls import redact

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
FAULTS = (OSError, TypeError, ValueError, NotImplementedError, NoCredentialsError, PartialCredentialsError)
SHA256 = re.compile(r"[0-9a-f]{64}")
AT_ONCE = 16
"""Number of objects that are read or written at once."""


class ObjectStore:
    """The objects below one path or URL. Cheap to make; pickled as its URL or full path, and its options.

    `options` are fsspec options of the store. Passing faults are retried until `patience` seconds have gone by without
    a byte. With `fail_fast`, a store that cannot be reached and has not answered before is not retried; workers, which
    get the store from the driver, always retry. Errors of the store become `UserError`, with the URL of the catalogue.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, patience: float = PATIENCE, fail_fast: bool = True
    ) -> None:
        self.url = url
        self.fail_fast = fail_fast
        self.options = dict(options or {})
        try:
            self.fs, root = filesystem(url, self.options)
        except UserError as error:
            raise UserError(f"catalogue={error}") from None
        except Exception as error:  # some clients connect here, each with its own exceptions
            raise UserError(redact(f"catalogue={url}: cannot be opened ({error})")) from None
        self.root = root.rstrip("/")
        self._local = is_local(self.fs)
        self.patience = 0 if self._local else patience

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any], float, bool]]:
        # An actor may have another current folder. The driver has reached the store before.
        return type(self), (self.root if self._local else self.url, self.options, self.patience, False)

    def _inside(self, path: str) -> str:
        """The full path of an object. Raises `DamagedError` for a path that leads out of the folder, as a foreign index
        or manifest may contain."""
        if "\\" in path or not all(part.strip(".") for part in path.split("/")):
            raise DamagedError(f"{self.url}: {path!r} is no path in a catalogue")
        return f"{self.root}/{path}"

    def put(self, path: str, data: bytes) -> None:
        """Write an object atomically: at any moment it has its old or its new contents."""
        full = self._inside(path)
        with self._errors("written"):
            if self._local:
                disk.write(Path(full), data)
            else:
                self._retry("pipe_file", path, data, size=len(data))

    def put_new(self, path: str, data: bytes) -> bytes:
        """Write an object unless it exists. Returns the object's contents: `data`, or those of an earlier writer."""
        current = self.get(path)
        if current is not None:
            return current
        # If the object exists now, another writer made it, or an earlier try of ours whose answer was lost.
        with self._errors("written"), contextlib.suppress(FileExistsError):
            if self._local:
                disk.write(Path(self._inside(path)), data, new=True)
            else:
                self._put_if(path, data, mode="create")
        return self.get(path) or data

    def get_version(self, path: str) -> tuple[bytes | None, str]:
        """An object's contents, or None if it does not exist, and its version. Only for S3."""
        full = self._inside(path)
        bucket, key, _ = self.fs.split_path(full)

        async def answer() -> tuple[bytes, str]:
            response = await self.fs._call_s3("get_object", Bucket=bucket, Key=key)
            data = await response["Body"].read()
            if len(data) != response["ContentLength"]:
                raise OSError(f"{len(data)} of {response['ContentLength']} bytes came")
            return data, response["ETag"]

        fetch = partial(asyn.sync, self.fs.loop, answer, timeout=request_timeout(self.patience, BLOCK))
        with self._errors("read"), contextlib.suppress(*ABSENT):
            contents: tuple[bytes, str] = retry(fetch, self.patience, full, self.fail_fast)
            return contents
        return None, ""

    @cached_property
    def refuses_other_versions(self) -> bool:
        """Whether `put_version` is reliable. S3 refuses to overwrite any version but the stated one; some servers that
        imitate S3 ignore the condition."""
        if "s3" not in self.fs.protocol:
            return False
        probe = f"claims/{uuid.uuid4().hex}"
        if not self.put_version(probe, b"", '"0"'):
            return True
        self.remove(probe)
        return False

    def put_version(self, path: str, data: bytes, version: str) -> bool:
        """Write an object if its current version is `version`, or if it does not exist and `version` is empty. Only for
        S3.

        Returns whether the object was written. Also False if an earlier try wrote it but the answer was lost.
        """
        condition = {"IfMatch": version} if version else {"mode": "create"}
        with self._errors("written"):
            try:
                self._put_if(path, data, **condition)
            except FileExistsError:
                return False
            except FileNotFoundError:  # the version to be replaced is gone; without one, the bucket is missing
                if not version:
                    raise
                return False
        return True

    def _put_if(self, path: str, data: bytes, **condition: str) -> None:
        try:
            self._retry("pipe_file", path, data, size=len(data), **condition)
        except NotImplementedError:  # a store without conditional writes
            self._retry("pipe_file", path, data, size=len(data))

    def get(self, path: str) -> bytes | None:
        """An object's contents, or None if it does not exist."""
        full = self._inside(path)
        with self._errors("read"), contextlib.suppress(*ABSENT):
            return Path(full).read_bytes() if self._local else read_object(self.fs, full, self.patience, self.fail_fast)
        return None

    def get_verified(self, path: str, sha256: str = "", max_bytes: int = MAX_IN_MEMORY) -> bytes | None:
        """An object's contents, in one request. None if it does not exist, or if its SHA-256 is not `sha256`.

        With a SHA-256, the object is taken from this machine's cache if it was read before. Without one the contents
        are not checked, and a website may send at most `max_bytes`.
        """
        if sha256 and not SHA256.fullmatch(sha256):
            return None
        if not sha256 or self._local:
            data = self.get_at_once(path, max_bytes)
            return data if not sha256 or _has(data, sha256) else None
        data = cache.recall(sha256)
        if data is None:
            data = self.get_at_once(path)
            if not _has(data, sha256):
                data = self.get(path)  # the answer may have been truncated
            if data is None or not _has(data, sha256):
                return None
            cache.remember(sha256, data)
        return data

    def get_at_once(self, path: str, max_bytes: int = MAX_IN_MEMORY) -> bytes | None:
        """An object's contents in one request, without asking for its size first, or None if it does not exist. Raises
        `UserError` if a website sends more than `max_bytes`."""
        if self._local:
            return self.get(path)
        with self._errors("read"), contextlib.suppress(*ABSENT):
            full = self._inside(path)
            fetch = partial(read_at_once, self.fs, full, self.patience, max_bytes)
            return retry(fetch, self.patience, full, self.fail_fast)
        return None

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every object, by path. Temporary files of writers are left out."""
        self.fs.invalidate_cache()
        with self._errors("read"), contextlib.suppress(*ABSENT):
            infos = retry(partial(self.fs.find, self.root, detail=True), self.patience, self.root, self.fail_fast)
            start = len(self.fs._strip_protocol(self.root)) + 1
            return {name[start:]: int(info["size"]) for name, info in infos.items() if not _is_temporary(name)}
        return {}

    def put_all(self, objects: Iterable[tuple[str, Callable[[], bytes]]]) -> None:
        """Write several objects, up to `AT_ONCE` at the same time. The contents of each are made when it is written."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in threads.map(lambda pair: self.put(pair[0], pair[1]()), objects):
                pass

    def _retry(self, method: str, path: str, *arguments: Any, **options: Any) -> Any:
        full = self._inside(path)
        action = partial(call, self.fs, method, full, *arguments, patience=self.patience, **options)
        return retry(action, self.patience, full, self.fail_fast)

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """Turn errors of the store into a `UserError` that names the catalogue."""
        try:
            yield
        except FAULTS as error:
            raise UserError(redact(f"catalogue={self.url}: cannot be {done} ({error})")) from None

    def put_json(self, path: str, value: Any) -> None:
        self.put(path, as_json(value))

    def get_json(self, path: str) -> Any:
        """The value in a JSON object, or None if the object does not exist. Raises `DamagedError` for other data."""
        data = self.get(path)
        try:
            return None if data is None else json.loads(data)
        except ValueError as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error

    def names(self, folder: str, ending: str = "") -> list[str]:
        """Names of the objects and folders directly inside a folder that end in `ending`, sorted, without it."""
        full = f"{self.root}/{folder}".rstrip("/")
        paths: list[str] = []
        with self._errors("read"), contextlib.suppress(*ABSENT):
            self.fs.invalidate_cache(full)
            paths = retry(partial(self.fs.ls, full, detail=False), self.patience, full, self.fail_fast)
            self.fs.invalidate_cache(full)  # a million cached names would fill the memory
        names = (path.rstrip("/").rpartition("/")[2] for path in paths if path.rstrip("/") != full)
        return sorted(name.removesuffix(ending) for name in names if name.endswith(ending) and not _is_temporary(name))

    def put_group(self, path: str, objects: Mapping[str, bytes]) -> None:
        """Write the objects of a Zarr group, the group's own metadata last: without it readers ignore the others."""
        *arrays, group = objects.items()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in threads.map(lambda item: self.put(f"{path}/{item[0]}", item[1]), arrays):
                pass
        self.put(f"{path}/{group[0]}", group[1])

    def get_group(self, path: str) -> dict[str, bytes]:
        """All objects below a path, by their names relative to it."""
        full = f"{self.root}/{path}"
        with self._errors("read"):
            names: Iterable[str] = retry(partial(self.fs.find, full), self.patience, full, self.fail_fast)
        names = [name for name in names if not _is_temporary(name)]
        paths = [f"{path}/{name.removeprefix(self.fs._strip_protocol(full)).lstrip('/')}" for name in names]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            objects = zip(paths, threads.map(self.get, paths), strict=True)
            return {name[len(path) + 1 :]: data for name, data in objects if data is not None}

    def remove(self, path: str) -> None:
        """Remove an object if it exists."""
        with self._errors("written"), contextlib.suppress(FileNotFoundError):
            self._retry("rm_file", path)  # `rm` would take a name with brackets for a pattern

    def remove_group(self, path: str) -> None:
        """Remove all objects below a path."""
        if self._local:
            shutil.rmtree(self._inside(path), ignore_errors=True)
            return
        for name in self.get_group(path):
            self.remove(f"{path}/{name}")

    def age(self, path: str) -> timedelta:
        """The time since an object was written, or zero if it does not exist."""
        with self._errors("read"), contextlib.suppress(FileNotFoundError):
            written = retry(partial(self.fs.modified, f"{self.root}/{path}"), self.patience, path, self.fail_fast)
            age: timedelta = datetime.now(UTC) - (written if written.tzinfo else written.replace(tzinfo=UTC))
            return age
        return timedelta()


def _is_temporary(name: str) -> bool:
    """Whether a file belongs to a writer that is still writing, or died."""
    return name.endswith(disk.TEMPORARY)


def _has(data: bytes | None, sha256: str) -> bool:
    return data is not None and hashlib.sha256(data).hexdigest() == sha256


def as_json(value: Any) -> bytes:
    """A value as the JSON that `put_json` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


Folder = ObjectStore
"""The former name of `ObjectStore`."""
