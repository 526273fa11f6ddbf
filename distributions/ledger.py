"""The ledger: what every shard of a VDNA contributed, so that a VDNA can say how complete it is.

record = ShardRecord("s3://bucket/000.tar", size=1024, counted=98, skipped={"not an image": 2})
record.seen                               # 100
ledger = Ledger([record])
ledger.counted, ledger.skipped            # 98, {"not an image": 2}
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from distributions.errors import IncompatibleError

SAME_FILE = "same file"
"""The reason of what is another name of a file that counts; nothing is lost by it."""


@dataclass(frozen=True)
class ShardRecord:
    """One shard: where it was, what it was, how many of its images counted and why the others did not.

    `url` with `part` (which members, where a shard is a part of an object or a group of files) names
    the shard; of two groups of files that overlap without being the same, nothing is noticed. `etag` is
    the store's version of the object when the run was planned, `sha256` the digest of the bytes that
    were read. `damage` says where an archive broke; `lost_bytes` lie behind that place unread.

    `place` is where the shard lay, `content` what it held: a copy elsewhere has the same content.
    """

    url: str
    part: str = ""
    size: int = 0
    etag: str = ""
    sha256: str = ""
    counted: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    damage: str = ""
    lost_bytes: int = 0

    @property
    def seen(self) -> int:
        return self.counted + sum(self.skipped.values())

    @property
    def key(self) -> tuple[str, str]:
        return (self.url, self.part)

    @property
    def place(self) -> str:
        return json.dumps([self.url, self.part, self.etag])

    @property
    def content(self) -> str:
        held = [self.size, self.sha256, self.counted, sorted(self.skipped.items()), self.damage, self.lost_bytes]
        return json.dumps(held)


class Ledger:
    """The records of distinct shards, ordered by name. A shard that is already there cannot be added.

    `noticed` says of how many images that counted something was noticed, by what it was; None where nobody looked. It
    merges like the records, and is no part of a digest.
    """

    def __init__(self, records: Iterable[ShardRecord] = ()) -> None:
        self.noticed: Mapping[str, int] | None = None
        self._records: dict[tuple[str, str], ShardRecord] = {}
        for record in records:
            self.add(record)

    def add(self, record: ShardRecord) -> None:
        if record.key in self._records:
            raise IncompatibleError(f"shard {record.url} {record.part} would be counted twice".replace("  ", " "))
        self._records[record.key] = record

    def merge(self, other: Ledger) -> None:
        """Add the other's shards; refuses, unchanged, if the two have a shard in common."""
        common = self._records.keys() & other._records.keys()
        if common:
            raise IncompatibleError(f"{len(common)} shard(s) would be counted twice, for instance {min(common)[0]}")
        if not self._records:
            self.noticed = other.noticed
        elif other._records:
            both = None not in (self.noticed, other.noticed)
            self.noticed = _sum(self.noticed or {}, other.noticed or {}) if both else None
        self._records.update(other._records)

    def __iter__(self) -> Iterator[ShardRecord]:
        return iter(record for _, record in sorted(self._records.items()))

    def __len__(self) -> int:
        return len(self._records)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self._records == other._records

    def digest(self) -> str:
        """SHA-256 over what the shards held, in an order of its own: equal wherever the same data lay."""
        return hashlib.sha256("\n".join(sorted(record.content for record in self)).encode()).hexdigest()

    def sources_digest(self) -> str:
        """SHA-256 over where the shards lay."""
        return hashlib.sha256("\n".join(record.place for record in self).encode()).hexdigest()

    @property
    def counted(self) -> int:
        """Images whose activations are in the VDNA."""
        return sum(record.counted for record in self._records.values())

    @property
    def skipped(self) -> dict[str, int]:
        """Images left out, by reason."""
        total: Counter[str] = Counter()
        for record in self:
            total.update(record.skipped)
        return dict(sorted(total.items()))

    @property
    def damaged(self) -> list[ShardRecord]:
        """Shards whose archive broke before its end."""
        return [record for record in self if record.damage]

    @property
    def bad_fraction(self) -> float:
        """Share of the data that could not be used: of the images seen or of the bytes, whichever is worse."""
        skipped = sum(count for reason, count in self.skipped.items() if reason != SAME_FILE)
        lost = sum(record.lost_bytes for record in self._records.values())
        size = sum(max(record.size, 0) for record in self._records.values())
        return max(skipped / max(self.counted + skipped, 1), lost / max(size, 1))


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {what: one.get(what, 0) + other.get(what, 0) for what in sorted({*one, *other})}
