"""Reading loose files: images that are single objects, and the other parts of their samples.

file = LooseFile(url, fs, path, size)
data, info = file.load(file.begin(), stalled, patience, planned=True)     # bytes or a BadImage; the description
file.read_parts(["cls"], patience)                                        # {"cls": b"3"}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from typing import Any, NamedTuple

from distributions.ledger import SAME_FILE
from pipeline.data.decode import MAX_BYTES, BadImage
from pipeline.data.names import sample
from pipeline.data.shards import SAME
from pipeline.data.tars import MAX_PART
from pipeline.errors import PLAN_AGAIN, ShortReadError, SourceChangedError
from pipeline.storage.ahead import begin, wait_for
from pipeline.storage.faults import IMPOSSIBLE_PATH
from pipeline.storage.objects import call, is_local, refuse_page, request_timeout, retry
from pipeline.storage.urls import redact

Read = tuple[bytes, dict[str, Any]]
"""A file's bytes, and the store's description of it from after the reading."""


def describe(fs: Any, path: str, patience: float) -> dict[str, Any]:
    """The store's current description of an object, not a cached one."""
    fs.invalidate_cache(path)
    info: dict[str, Any] = retry(lambda: call(fs, "info", path, patience=patience), patience, path)
    return info


class LooseFile(NamedTuple):
    """An image file: its name, its file system and path, and its size at planning."""

    url: str
    fs: Any
    path: str
    size: int

    def expected_bytes(self) -> int:
        """The number of bytes to expect; the limit if the size is unknown."""
        return 0 if self.size == SAME else self.size if self.size >= 0 else MAX_BYTES

    @property
    def _span(self) -> dict[str, int]:
        """The options that request a whole file as a range. Without them s3fs would first ask for its size."""
        return {"start": 0, "end": self.size} if self.size > 0 else {}

    def begin(self) -> Future[Read] | None:
        """Request the file and then its description early. Returns None if the file is not read, or the file system
        takes no early requests."""

        async def read() -> Read:
            data = await self.fs._cat_file(self.path, **self._span)
            self.fs.invalidate_cache(self.path)
            return data, await self.fs._info(self.path)

        return begin(self.fs, read) if self.size <= MAX_BYTES and self.size != SAME else None

    def read(self, early: Future[Read] | None, patience: float) -> Read:
        """Try once to read the file and then its description. `early` is an early request for both.

        Raises `SourceChangedError` if the size differs from the planned one, and `ShortReadError` if bytes are missing.
        """
        early = early or self.begin()
        if early:
            data, info = wait_for(early, request_timeout(patience, max(self.size, 0)))
        else:
            data, info = self.fs.cat_file(self.path, **self._span), self.fs.info(self.path)
        if self.size >= 0 and len(data) != self.size:
            if info.get("size") != self.size:
                raise SourceChangedError(f"{redact(self.path)}: has changed since it was planned: {PLAN_AGAIN}")
            raise ShortReadError(f"read {len(data)} of {self.size} bytes")
        return refuse_page(self.path, data), info

    def load(
        self, early: Future[Read] | None, stalled: Callable[[], None], patience: float, planned: bool
    ) -> tuple[bytes | BadImage, dict[str, Any] | None]:
        """The file's bytes, or the reason why it cannot be used, and its description, or None if it does not exist.

        `early` is the early request; it is tried first. `stalled` is called after each timeout. If the file existed at
        planning (`planned`), its absence raises `FileNotFoundError`: the store may be out of reach.
        """
        if self.size == SAME:
            return BadImage(SAME_FILE), None
        if self.size > MAX_BYTES:
            return BadImage("too large"), describe(self.fs, self.path, patience)
        tries = chain([early], repeat(None))

        def read() -> Read:
            try:
                return self.read(next(tries), patience)
            except TimeoutError:
                stalled()
                raise

        try:
            return retry(read, 0 if is_local(self.fs) else patience, self.path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
            missing = missing or error.errno in IMPOSSIBLE_PATH
            if not missing or planned:
                raise
            return BadImage("missing file"), None

    def read_parts(self, parts: Sequence[str], patience: float) -> dict[str, bytes]:
        """Other parts of the file's sample, by part: the files in its folder with the same name up to the first dot."""
        contents: dict[str, bytes] = {}
        for part in parts:
            path = f"{sample(self.path)[0]}.{part}"
            with suppress(FileNotFoundError):
                if path != self.path and describe(self.fs, path, patience).get("size", 0) <= MAX_PART:
                    contents[part] = retry(partial(self.fs.cat_file, path), patience, path)
        return contents
