"""What a run works on: shards, each read from start to end, and tasks, fixed groups of them.

    shard = Shard("tar", "s3://bucket/000.tar", size=1024, etag="…")
    tasks = group(shards, 4)                  # four shards to a task, the last may have fewer

A ledger has a record for each shard, a store a partial for each task.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

UNKNOWN, ABSENT, SAME = -1, -2, -3
"""Sizes of an object whose store does not say, of one that is named but not there, and of another name of a file."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A piece of a dataset that is read from start to end.

    `kind` is tar, zip, parquet or files. `url` is the object, or the folder of a group of files;
    `members` are file names, zip members or row groups, empty for a whole archive; `part` names them.
    `size` in bytes, -1 where the store does not say; `sizes` those of a group's files; `etag` is the store's
    version of the content. `image` says which part of a sample is the image, where the user does: a key in a tar, a
    column of a Parquet file; `part` names it too. `signing` is what signs the url, or each member's: secret and
    never stored.
    """

    kind: str
    url: str
    size: int
    etag: str
    part: str = ""
    members: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    signing: tuple[str, ...] = field(default=(), compare=False, repr=False)
    image: str = ""

    def to_row(self) -> list[Any]:
        """Everything but what signs it, for a plan; `from_row` makes it again."""
        row = [self.kind, self.url, self.size, self.etag, self.part, self.members, self.sizes]
        return [*row, self.image] if self.image else row

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Shard:
        kind, url, size, etag, part, members, sizes, *image = row
        return cls(sys.intern(kind), url, int(size), etag, part, tuple(members), tuple(sizes), image=str(*image))


@dataclass(frozen=True, slots=True)
class Task:
    """A fixed group of shards. `id` hashes them, so a task keeps its partial when a dataset grows.

    `storage` are the fsspec options to read them with; they are no part of the id and are never stored.
    """

    index: int
    shards: tuple[Shard, ...]
    storage: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes of the shards, as far as the store says."""
        return sum(max(shard.size, 0) for shard in self.shards)

    @property
    def id(self) -> str:
        # Members are in the etag of a group of files; naming them again would only cost time.
        keys = [(s.kind, s.url, s.part, s.size, s.etag) for s in self.shards]
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]


def images_in(shards: Sequence[Shard]) -> int | None:
    """How many images shards name; None if only reading them tells."""
    if any(shard.kind not in ("files", "zip") or not shard.members for shard in shards):
        return None
    return sum(len(shard.members) for shard in shards)


class Work(Protocol):
    """What a pool has to know of a task: its place in the order, its partial's name, its bytes."""

    @property
    def index(self) -> int: ...

    @property
    def id(self) -> str: ...

    @property
    def size(self) -> int: ...


def group(shards: Sequence[Shard], shards_per_task: int, storage: Mapping[str, Any] | None = None) -> list[Task]:
    """Consecutive shards in groups of a fixed size: the same tasks on any number of machines."""
    starts = range(0, len(shards), shards_per_task)
    groups = (tuple(shards[start : start + shards_per_task]) for start in starts)
    return [Task(index, members, storage or {}) for index, members in enumerate(groups)]
