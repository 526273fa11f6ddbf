"""One object that several writers change, of whom none takes away what another wrote.

    change(folder, "catalogue.json", lambda there: data)      # asked again where another writer came first

What holds when two writers change an object at the same moment depends on where it lies:

    S3             The store refuses one of them, because a write names the version that it replaces (If-Match) or that
                   there is none (If-None-Match).
    a disk,        One of them finds its number taken. Writers number their changes: the new contents are created as
    Google Cloud   `claims/PATH/NUMBER`, which only one can do (`link`, a conditional create), and the object follows. A
    Storage,       writer that dies between the two is completed by the next one. A writer that was stopped there and
    Azure          goes on later puts back what came after it; until then readers see the object as it was before.
    others         (SFTP, SMB, HDFS, FTP, S3 servers that ignore conditions.) Numbers as well, but these stores let two
                   create one. A writer looks for others right before and right after it writes, and is asked again
                   where it finds one; two whose requests cross are not noticed.

Nothing is locked: no writer waits for another, and one that is killed at any moment leaves nothing that stops the next.
Programs that do not know of claims may write the object too; what they wrote is taken as it lies there.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from datetime import timedelta

from pipeline.folder import Folder

STALE = timedelta(hours=1)
"""Age at which what nothing names was left behind: what is being written now is younger."""
CLAIMS = "claims"
PAUSE = 0.05
"""Seconds, at most, before a writer who came too late looks again."""
HALF = timedelta(seconds=10)
"""Age at which nobody is writing a claim any more that is not whole, as it may be seen on disks without links."""

Make = Callable[[bytes | None], bytes]


def change(folder: Folder, path: str, make: Make) -> bytes:
    """Replace an object by what `make` returns, given what is there, or None; return what is there then.

    `make` is asked again as often as another writer comes first. It returns what it was given to leave that as it is.
    What it raises passes through, and nothing is changed.
    """
    attempt = _by_version if folder.refuses_other_versions else _by_claim
    while True:
        found = attempt(folder, path, make)
        if found is not None:
            return found
        time.sleep(random.uniform(0, PAUSE))


def _by_version(folder: Folder, path: str, make: Make) -> bytes | None:
    """What is there after a change; None where another came first."""
    there, version = folder.get_version(path)
    after = make(there)
    return after if after == there or folder.put_version(path, after, version) else None


def _by_claim(folder: Folder, path: str, make: Make) -> bytes | None:
    """What is there after a change; None where another came first."""
    there, number = _claimed(folder, path)
    after = make(there)
    if after == there:
        return after
    if there is None:
        return after if folder.put_new(path, after) == after else None
    name, claim = _name(path, number + 1), f"{_hash(there)} {_hash(after)}\n".encode() + after
    if folder.put_new(name, claim) != claim:
        return None
    folder.put(path, after)
    found = folder.get(name)
    if found not in (None, claim):  # the store let another writer take this number as well, and that one has it now
        folder.put(path, found.partition(b"\n")[2] if found else after)
        return None
    _claimed(folder, path)  # a later one may be in place, or have been
    for one in _numbers(folder, path)[:-1]:
        if folder.age(_name(path, one)) < STALE:
            break
        folder.remove(_name(path, one))
    return after


def _claimed(folder: Folder, path: str) -> tuple[bytes | None, int]:
    """What the last claim says, put in place if its writer has not come to that, and its number. What is there, where
    no claim speaks of that."""
    while True:
        numbers = _numbers(folder, path)
        there = folder.get(path)
        if not numbers or there is None:
            return there, max(numbers, default=0)
        last = _read(folder, path, numbers[-1])
        if last is None:
            if folder.age(_name(path, numbers[-1])) > HALF:
                return there, numbers[-1]
            time.sleep(PAUSE)
        elif there == last[1]:
            return there, numbers[-1]
        elif any(claim and claim[0] == _hash(there) for one in numbers[::-1] if (claim := _read(folder, path, one))):
            folder.put(path, last[1])  # of a writer that died or waits; what is there came before
        elif _numbers(folder, path) == numbers:
            return there, numbers[-1]


def _name(path: str, number: int) -> str:
    return f"{CLAIMS}/{path}/{number:08d}"


def _numbers(folder: Folder, path: str) -> list[int]:
    return sorted(int(name) for name in folder.names(f"{CLAIMS}/{path}") if name.isdecimal())


def _read(folder: Folder, path: str, number: int) -> tuple[str, bytes] | None:
    """The hash of what a claim replaces, and what it puts there; None if it is gone, or not whole."""
    head, _, data = (folder.get(_name(path, number)) or b"").partition(b"\n")
    before, _, after = head.decode(errors="replace").partition(" ")
    return (before, data) if after == _hash(data) else None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
