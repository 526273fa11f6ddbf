"""Loose files: images that each are an object of their own, and what lies beside them."""

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
from pipeline.errors import ShortReadError, SourceChangedError
from pipeline.storage.ahead import begin, settle
from pipeline.storage.faults import NOWHERE
from pipeline.storage.objects import call, is_local, patiently, refuse_page, stalled_after
from pipeline.storage.urls import redact

Read = tuple[bytes, dict[str, Any]]
"""A file's bytes, and what its store said of it afterwards."""


def described(fs: Any, path: str, patience: float) -> dict[str, Any]:
    """What a store says of an object now, whatever it said before."""
    fs.invalidate_cache(path)
    info: dict[str, Any] = patiently(lambda: call(fs, "info", path, patience=patience), patience, path)
    return info


class LooseFile(NamedTuple):
    """A file by its name, where it is, and the size that was planned."""

    url: str
    fs: Any
    path: str
    size: int

    def weigh(self) -> int:
        """Bytes that it may have."""
        return 0 if self.size == SAME else self.size if self.size >= 0 else MAX_BYTES

    @property
    def _span(self) -> dict[str, int]:
        """Asked for as a range: s3fs would first ask for the size again."""
        return {"start": 0, "end": self.size} if self.size > 0 else {}

    def begin(self) -> Future[Read] | None:
        """A first try, under way, at the file and then at what the store says of it."""

        async def read() -> Read:
            data = await self.fs._cat_file(self.path, **self._span)
            self.fs.invalidate_cache(self.path)
            return data, await self.fs._info(self.path)

        return begin(self.fs, read) if self.size <= MAX_BYTES and self.size != SAME else None

    def read(self, early: Future[Read] | None, patience: float) -> Read:
        """One try at the file, of the size that was planned, and then at what the store says of it."""
        early = early or self.begin()
        if early:
            data, info = settle(early, stalled_after(patience, max(self.size, 0)))
        else:
            data, info = self.fs.cat_file(self.path, **self._span), self.fs.info(self.path)
        if self.size >= 0 and len(data) != self.size:
            if info.get("size") != self.size:
                raise SourceChangedError(
                    f"{redact(self.path)}: has changed since it was planned: add plan to stages=[...]"
                )
            raise ShortReadError(f"read {len(data)} of {self.size} bytes")
        return refuse_page(self.path, data), info

    def taken(
        self, early: Future[Read] | None, stalled: Callable[[], None], patience: float, planned: bool
    ) -> tuple[bytes | BadImage, dict[str, Any] | None]:
        """Its bytes, or the reason why there are none, and what the store says of it; None of what is not there.

        `planned`: it was there when it was planned, so that its absence is a fault. `early`: a first try under way.
        """
        if self.size == SAME:
            return BadImage(SAME_FILE), None
        if self.size > MAX_BYTES:
            return BadImage("too large"), described(self.fs, self.path, patience)
        tries = chain([early], repeat(None))

        def read() -> Read:
            try:
                return self.read(next(tries), patience)
            except TimeoutError:
                stalled()
                raise

        try:
            return patiently(read, 0 if is_local(self.fs) else patience, self.path)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
            gone = gone or error.errno in NOWHERE
            if not gone or planned:
                raise  # a store that is out of reach, perhaps
            return BadImage("missing file"), None

    def beside(self, parts: Sequence[str], patience: float) -> dict[str, bytes]:
        """The other parts of its sample: files beside it with its name up to the first dot."""
        found: dict[str, bytes] = {}
        for part in parts:
            path = f"{sample(self.path)[0]}.{part}"
            with suppress(FileNotFoundError):
                if path != self.path and described(self.fs, path, patience).get("size", 0) <= MAX_PART:
                    found[part] = patiently(partial(self.fs.cat_file, path), patience, path)
        return found
