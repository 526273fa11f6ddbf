"""A folder of objects on any file system, each of which appears whole or not at all.

folder = Folder("s3://bucket/catalogue")
folder.put("site/index.html", page)       # a temporary file and a rename on a disk, one PUT on an object store
folder.get("site/index.html")
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
    PATIENCE,
    WHOLE,
    call,
    content,
    filesystem,
    is_local,
    patiently,
    stalled_after,
    whole,
)
from pipeline.storage.urls import redact

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
FAULTS = (OSError, TypeError, ValueError, NotImplementedError, NoCredentialsError, PartialCredentialsError)
SHA256 = re.compile(r"[0-9a-f]{64}")
AT_ONCE = 16
"""Objects under way at once where there are several."""


class Folder:
    """Objects under one path or URL. Cheap to make; travels to workers as URL and options.

    What passes is tried again until an object has taken `patience` seconds; then `UserError` says so. Where it is
    `impatient`, as all but workers are, a store that cannot be reached and has not answered before is said to be so at
    once.
    """

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, patience: float = PATIENCE, impatient: bool = True
    ) -> None:
        self.url = url
        self.impatient = impatient
        self.options = dict(options or {})
        try:
            self.fs, root = filesystem(url, self.options)
        except UserError as error:
            raise UserError(f"catalogue={error}") from None
        except Exception as error:  # some clients connect at once, each with exceptions of its own
            raise UserError(redact(f"catalogue={url}: cannot be opened ({error})")) from None
        self.root = root.rstrip("/")
        self._local = is_local(self.fs)
        self.patience = 0 if self._local else patience

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any], float, bool]]:
        return type(self), (self.url, self.options, self.patience, False)  # the driver, which sends it, has been there

    def _inside(self, path: str) -> str:
        """The full path of an object. What another's index or manifest says must not lead out of the folder."""
        if "\\" in path or not all(part.strip(".") for part in path.split("/")):
            raise DamagedError(f"{self.url}: {path!r} is no path in a catalogue")
        return f"{self.root}/{path}"

    def put(self, path: str, data: bytes) -> None:
        """Write an object whole: it has its old or its new content at any moment."""
        full = self._inside(path)
        with self._telling("written"):
            if self._local:
                disk.write(Path(full), data)
            else:
                self._patiently("pipe_file", path, data, size=len(data))

    def put_new(self, path: str, data: bytes) -> bytes:
        """Write an object unless it is there; returns what is there then, ours or that of who was first."""
        there = self.get(path)
        if there is not None:
            return there
        # Where it is there after all, it is another writer's, or ours by a try whose answer was lost.
        with self._telling("written"), contextlib.suppress(FileExistsError):
            if self._local:
                disk.write(Path(self._inside(path)), data, new=True)
            else:
                self._put_if(path, data, mode="create")
        return self.get(path) or data

    def get_version(self, path: str) -> tuple[bytes | None, str]:
        """An object's content, None if it is not there, and which version that is. Of S3 alone."""
        full = self._inside(path)
        bucket, key, _ = self.fs.split_path(full)

        async def answer() -> tuple[bytes, str]:
            found = await self.fs._call_s3("get_object", Bucket=bucket, Key=key)
            data = await found["Body"].read()
            if len(data) != found["ContentLength"]:
                raise OSError(f"{len(data)} of {found['ContentLength']} bytes came")
            return data, found["ETag"]

        fetch = partial(asyn.sync, self.fs.loop, answer, timeout=stalled_after(self.patience, BLOCK))
        with self._telling("read"), contextlib.suppress(*ABSENT):
            found: tuple[bytes, str] = patiently(fetch, self.patience, full, self.impatient)
            return found
        return None, ""

    @cached_property
    def refuses_other_versions(self) -> bool:
        """Whether `put_version` can be relied on. S3 refuses to write over another version than the one that is named;
        some of its imitations ignore what they do not know."""
        if "s3" not in self.fs.protocol:
            return False
        probe = f"claims/{uuid.uuid4().hex}"
        if not self.put_version(probe, b"", '"0"'):
            return True
        self.remove(probe)
        return False

    def put_version(self, path: str, data: bytes, version: str) -> bool:
        """Write an object over that version of it, or where there is none; whether that was still so. Of S3 alone.

        False as well where it was written by a try whose answer was lost.
        """
        condition = {"IfMatch": version} if version else {"mode": "create"}
        with self._telling("written"):
            try:
                self._put_if(path, data, **condition)
            except FileExistsError:
                return False
            except FileNotFoundError:  # what is to be replaced, unless there is no such bucket
                if not version:
                    raise
                return False
        return True

    def _put_if(self, path: str, data: bytes, **condition: str) -> None:
        try:
            self._patiently("pipe_file", path, data, size=len(data), **condition)
        except NotImplementedError:  # so says a store without conditions, unless it ignores them
            self._patiently("pipe_file", path, data, size=len(data))

    def get(self, path: str) -> bytes | None:
        """An object's content, or None if it is not there."""
        full = self._inside(path)
        with self._telling("read"), contextlib.suppress(*ABSENT):
            return Path(full).read_bytes() if self._local else whole(self.fs, full, self.patience, self.impatient)
        return None

    def get_known(self, path: str, sha256: str = "", most: int = WHOLE) -> bytes | None:
        """An object in one request; where its SHA-256 is given, only if it has it, and from this machine's cache if it
        was read before. None if it is not there, or is another."""
        if sha256 and not SHA256.fullmatch(sha256):
            return None
        if not sha256 or self._local:
            data = self.at_once(path, most)
            return data if not sha256 or _has(data, sha256) else None
        data = cache.recall(sha256)
        if data is None:
            data = self.at_once(path)
            if not _has(data, sha256):
                data = self.get(path)  # perhaps it was cut short on its way
            if data is None or not _has(data, sha256):
                return None
            cache.remember(sha256, data)
        return data

    def at_once(self, path: str, most: int = WHOLE) -> bytes | None:
        """An object's content without asking for its size first. A website may not send more than `most` bytes."""
        if self._local:
            return self.get(path)
        with self._telling("read"), contextlib.suppress(*ABSENT):
            full = self._inside(path)
            return patiently(partial(content, self.fs, full, self.patience, most), self.patience, full, self.impatient)
        return None

    def sizes(self) -> dict[str, int]:
        """Bytes of every object, by its path; what is being written is none."""
        self.fs.invalidate_cache()
        with self._telling("read"), contextlib.suppress(*ABSENT):
            found = patiently(partial(self.fs.find, self.root, detail=True), self.patience, self.root, self.impatient)
            start = len(self.fs._strip_protocol(self.root)) + 1
            return {name[start:]: int(its["size"]) for name, its in found.items() if not name.endswith(disk.TEMPORARY)}
        return {}

    def put_all(self, objects: Iterable[tuple[str, Callable[[], bytes]]]) -> None:
        """Write several objects, some at once, each read when its turn has come."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in threads.map(lambda pair: self.put(pair[0], pair[1]()), objects):
                pass

    def _patiently(self, method: str, path: str, *arguments: Any, **options: Any) -> Any:
        full = self._inside(path)
        action = partial(call, self.fs, method, full, *arguments, patience=self.patience, **options)
        return patiently(action, self.patience, full, self.impatient)

    @contextmanager
    def _telling(self, done: str) -> Iterator[None]:
        """What the store refuses or fails at, as one line that names the catalogue."""
        try:
            yield
        except FAULTS as error:
            raise UserError(redact(f"catalogue={self.url}: cannot be {done} ({error})")) from None

    def put_json(self, path: str, content: Any) -> None:
        self.put(path, as_json(content))

    def get_json(self, path: str) -> Any:
        """What `put_json` wrote, or None; `DamagedError` names an object that is no JSON."""
        data = self.get(path)
        try:
            return None if data is None else json.loads(data)
        except ValueError as error:
            raise DamagedError(f"{self.url}/{path} is damaged: {error}") from error

    def names(self, folder: str, ending: str = "") -> list[str]:
        """Names of what lies directly inside a folder, sorted, without their `ending`."""
        full = f"{self.root}/{folder}".rstrip("/")
        found: list[str] = []
        with self._telling("read"), contextlib.suppress(*ABSENT):
            self.fs.invalidate_cache(full)
            found = patiently(partial(self.fs.ls, full, detail=False), self.patience, full, self.impatient)
            self.fs.invalidate_cache(full)  # of a million names, they fill memory
        names = (name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != full)
        return sorted(n.removesuffix(ending) for n in names if n.endswith(ending) and not n.endswith(disk.TEMPORARY))

    def put_group(self, path: str, objects: Mapping[str, bytes]) -> None:
        """The group's own metadata last: without it the rest is nothing."""
        *arrays, group = objects.items()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in threads.map(lambda item: self.put(f"{path}/{item[0]}", item[1]), arrays):
                pass
        self.put(f"{path}/{group[0]}", group[1])

    def get_group(self, path: str) -> dict[str, bytes]:
        """All objects below a path, by their names there."""
        full = f"{self.root}/{path}"
        with self._telling("read"):
            names: Iterable[str] = patiently(partial(self.fs.find, full), self.patience, full, self.impatient)
        names = [name for name in names if not name.endswith(disk.TEMPORARY)]  # of a writer that died, or writes now
        paths = [f"{path}/{name.removeprefix(self.fs._strip_protocol(full)).lstrip('/')}" for name in names]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            objects = zip(paths, threads.map(self.get, paths), strict=True)
            return {name[len(path) + 1 :]: data for name, data in objects if data is not None}

    def remove(self, path: str) -> None:
        """Remove an object that may be gone already."""
        with self._telling("written"), contextlib.suppress(FileNotFoundError):
            self._patiently("rm_file", path)  # `rm` would take a name with brackets for a pattern

    def remove_group(self, path: str) -> None:
        """Remove all objects below a path."""
        if self._local:
            shutil.rmtree(self._inside(path), ignore_errors=True)
            return
        for name in self.get_group(path):
            self.remove(f"{path}/{name}")

    def age(self, path: str) -> timedelta:
        """How long ago an object was written; no time at all if it is not there."""
        with self._telling("read"), contextlib.suppress(FileNotFoundError):
            written = patiently(partial(self.fs.modified, f"{self.root}/{path}"), self.patience, path, self.impatient)
            age: timedelta = datetime.now(UTC) - (written if written.tzinfo else written.replace(tzinfo=UTC))
            return age
        return timedelta()


def _has(data: bytes | None, sha256: str) -> bool:
    return data is not None and hashlib.sha256(data).hexdigest() == sha256


def as_json(content: Any) -> bytes:
    """What `put_json` writes."""
    return json.dumps(content, indent=1, ensure_ascii=False).encode()
