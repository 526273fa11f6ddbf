"""Shards, the units that are read from start to end, and tasks, fixed groups of shards.

    shard = Shard("tar", "s3://bucket/000.tar", size=1024, etag="…")
    tasks = group(shards, 4)                  # four shards in each task; the last may have fewer

A ledger has a record for each shard. A store has a partial for each task.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

UNKNOWN, ABSENT, SAME = -1, -2, -3
"""Special sizes: of an object whose size the store does not state, of an object that does not exist, and of a second
name of a file."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A piece of a dataset that is read from start to end.

    Attributes:
        kind: `tar`, `zip`, `parquet` or `files`.
        url: the object, or the common folder of a group of files.
        size: bytes of the shard; -1 if the store does not state it.
        etag: the store's version of the contents.
        part: a name for `members` and `image`, empty for a whole archive.
        members: names of files, names of zip entries, or numbers of row groups; empty for a whole archive.
        sizes: the bytes of each file of a group.
        signing: the signatures of `url` or of each member; secret, and never stored.
        image: what holds the image, if the user has said so: an image key, or a column of a Parquet file.
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
        """The shard as a row of a plan, without its signatures. `from_row` is the inverse."""
        row = [self.kind, self.url, self.size, self.etag, self.part, self.members, self.sizes]
        return [*row, self.image] if self.image else row

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Shard:
        kind, url, size, etag, part, members, sizes, *image = row
        return cls(sys.intern(kind), url, int(size), etag, part, tuple(members), tuple(sizes), image=str(*image))


@dataclass(frozen=True, slots=True)
class Task:
    """A fixed group of shards.

    `id` is a hash of the shards, so a task keeps its partial when the dataset grows. `index` is its place in the plan.
    `storage` has the fsspec options for reading the shards. It is not part of the id, and is never stored.
    """

    index: int
    shards: tuple[Shard, ...]
    storage: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def size(self) -> int:
        """Bytes of the shards, as far as the store states them."""
        return sum(max(shard.size, 0) for shard in self.shards)

    @property
    def id(self) -> str:
        # The etag of a group of files is a hash of its members, so they need not be hashed again.
        keys = [(s.kind, s.url, s.part, s.size, s.etag) for s in self.shards]
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]


def images_in(shards: Sequence[Shard]) -> int | None:
    """The number of images in shards, or None if it is not known before they are read."""
    if any(shard.kind not in ("files", "zip") or not shard.members for shard in shards):
        return None
    return sum(len(shard.members) for shard in shards)


class Work(Protocol):
    """What the scheduler needs of a task: its place in the order, the name of its partial, and its bytes."""

    @property
    def index(self) -> int: ...

    @property
    def id(self) -> str: ...

    @property
    def size(self) -> int: ...


def group(shards: Sequence[Shard], shards_per_task: int, storage: Mapping[str, Any] | None = None) -> list[Task]:
    """Group consecutive shards into tasks of a fixed size. The tasks do not depend on the number of machines."""
    starts = range(0, len(shards), shards_per_task)
    groups = (tuple(shards[start : start + shards_per_task]) for start in starts)
    return [Task(index, members, storage or {}) for index, members in enumerate(groups)]
