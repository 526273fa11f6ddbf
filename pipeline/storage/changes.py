"""One object that several writers change, of whom none takes away what another wrote.

    change(folder, "catalogue.json", lambda there: data)      # asked again where another writer came first

What holds when two writers change an object at the same moment depends on where it lies:

    S3             The store refuses one of them, because a write names the version that it replaces (If-Match) or that
                   there is none (If-None-Match).
    a disk,        One of them finds its number taken. Writers number their changes: the new contents are created as
    Google Cloud   `claims/PATH/NUMBER`, which only one can do (`link`, a conditional create), put in place as the
    Storage,       object, and noted as done. A writer that dies in between is completed by the next one. A writer that
    Azure          was stopped there and goes on later puts back what came after it; until then readers see the object
                   as it was before.
    others         (SFTP, SMB, HDFS, FTP, S3 servers that ignore conditions.) Numbers as well, but these stores let two
                   create one. A writer looks for others right before and right after it writes, and is asked again
                   where it finds one; two whose requests cross are not noticed.

Nothing is locked: no writer waits for another, and one that is killed at any moment leaves nothing that stops the next.
Programs that do not know of claims, and people, may write the object too, or remove it: what they left is taken as it
lies there.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from datetime import timedelta

from pipeline.storage.folder import Folder

STALE = timedelta(hours=1)
"""Age at which what nothing names was left behind: what is being written now is younger."""
CLAIMS = "claims"
PAUSE = 0.05
"""Seconds, at most, before a writer who came too late looks again."""
HALF = 10.0
"""Seconds until nobody is writing a claim any more that is not whole, as it may be seen on disks without links."""
BACK = 1.0
"""Seconds in which a writer that was stopped, and went on, puts back what came after it. What differs for longer was
written by a program that does not know of claims, or by hand."""

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
    number, there = _settled(folder, path)
    after = make(there)
    if after == there:
        return after
    number += 1
    claimed = _understood(folder.put_new(_name(path, number), _claim(after)))
    if claimed is None or claimed[0] != after:
        return None
    _place(folder, path, number, after)
    found = _read(folder, path, number)
    if found and found[0] != after:  # the store let another writer take this number as well, and that one has it now
        folder.put(path, found[0])
        return None
    for old in _numbers(folder, path)[:-1]:
        if folder.age(_name(path, old)) < STALE:
            break
        folder.remove(_name(path, old))
    return after


def _settled(folder: Folder, path: str) -> tuple[int, bytes | None]:
    """The last number, and the object, when what the last claim says was put in place."""
    begun = time.monotonic()
    while True:
        last, there = max(_numbers(folder, path), default=0), folder.get(path)
        found, waited = _read(folder, path, last), time.monotonic() - begun
        if found and not found[1]:  # its writer died, or is about to
            _place(folder, path, last, found[0])
        elif (found and (found[0] == there or waited > BACK)) or (not found and (last == 0 or waited > HALF)):
            return last, there
        else:
            time.sleep(PAUSE)


def _place(folder: Folder, path: str, number: int, data: bytes) -> None:
    """Put in place what a claim says, unless there is a later one, and note that this was done. Where a later one came
    meanwhile, that is put back."""
    placed = False
    while True:
        last = max(_numbers(folder, path), default=number)
        if last > number:
            found = _read(folder, path, last) if placed else None
            if found is None:
                return
            number, data = last, found[0]
        elif placed:
            folder.put(_name(path, number), _claim(data, done=True))
            return
        folder.put(path, data)
        placed = True


def _name(path: str, number: int) -> str:
    return f"{CLAIMS}/{path}/{number:08d}"


def _numbers(folder: Folder, path: str) -> list[int]:
    return sorted(int(name) for name in folder.names(f"{CLAIMS}/{path}") if name.isdecimal())


def _read(folder: Folder, path: str, number: int) -> tuple[bytes, bool] | None:
    return _understood(folder.get(_name(path, number)) or b"") if number else None


def _claim(data: bytes, done: bool = False) -> bytes:
    return f"{'done' if done else 'claimed'} {hashlib.sha256(data).hexdigest()}\n".encode() + data


def _understood(claim: bytes) -> tuple[bytes, bool] | None:
    """What a claim puts in place, and whether that was done; None if the claim is not there, or not whole."""
    data = claim.partition(b"\n")[2]
    return next(((data, done) for done in (False, True) if claim == _claim(data, done)), None)
