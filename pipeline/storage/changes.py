"""Changing one object from several writers at the same time, without losing any writer's change.

    change(store, "catalogue.json", make)     # `make(current)` returns the new bytes; called again after a conflict

How two simultaneous changes are told apart depends on the store:

    S3             Conditional writes. A write names the version that it replaces (If-Match), or states that there is
                   none (If-None-Match). S3 refuses the second writer.
    local disk,    Numbered claims. A writer creates its new contents as `claims/PATH/NUMBER`; only one writer can
    Google Cloud   create a number (`link`, or a conditional create). The writer then copies the claim to the object and
    Storage,       marks the claim as done. If a writer dies in between, the next writer completes its claim. If a
    Azure          writer is suspended there and continues later, it overwrites newer contents and then puts them back;
                   readers see the older contents in the meantime.
    others         (SFTP, SMB, HDFS, FTP, S3 servers that ignore conditions.) Numbered claims too, but these stores let
                   two writers create the same number. A writer checks for other writers directly before and after its
                   write, and starts again if it finds one. Two writers whose requests cross are not noticed.

There are no locks: no writer waits for another, and a writer that is killed at any moment does not block the next one.
Programs that know nothing of claims, and people, may also write or remove the object. Their contents are accepted.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from datetime import timedelta

from pipeline.storage.folder import ObjectStore

STALE = timedelta(hours=1)
"""Age from which an object that nothing refers to may be removed. A younger one may still be in use by its writer."""
CLAIMS = "claims"
PAUSE = 0.05
"""Longest pause in seconds before a change is tried again."""
PARTIAL_CLAIM_SECONDS = 10.0
"""Seconds after which nobody is still writing an incomplete claim. Disks without hard links show incomplete claims."""
PUT_BACK_SECONDS = 1.0
"""Seconds in which a writer that was suspended puts back the newer contents it has overwritten. If the object differs
from the last claim for longer, it was written by a person or by a program that knows nothing of claims."""

Make = Callable[[bytes | None], bytes]


def change(store: ObjectStore, path: str, make: Make) -> bytes:
    """Replace an object by `make(current)` and return its new contents.

    `current` is None if the object does not exist. `make` is called again each time another writer comes first. To
    leave the object unchanged, `make` returns `current`. An exception of `make` is passed on, and nothing is changed.
    """
    attempt = _by_version if store.refuses_other_versions else _by_claim
    while True:
        contents = attempt(store, path, make)
        if contents is not None:
            return contents
        time.sleep(random.uniform(0, PAUSE))


def _by_version(store: ObjectStore, path: str, make: Make) -> bytes | None:
    """Try a change by a conditional write: the new contents, or None if another writer came first."""
    current, version = store.get_version(path)
    new = make(current)
    return new if new == current or store.put_version(path, new, version) else None


def _by_claim(store: ObjectStore, path: str, make: Make) -> bytes | None:
    """Try a change by a numbered claim: the new contents, or None if another writer came first."""
    number, current = _last_done(store, path)
    new = make(current)
    if new == current:
        return new
    number += 1
    claimed = _parse(store.put_new(_name(path, number), _claim(new)))
    if claimed is None or claimed[0] != new:
        return None
    _complete(store, path, number, new)
    claim = _read(store, path, number)
    if claim and claim[0] != new:  # this store let another writer create the same number, and that claim remained
        store.put(path, claim[0])
        return None
    for old in _numbers(store, path)[:-1]:
        if store.age(_name(path, old)) < STALE:
            break
        store.remove(_name(path, old))
    return new


def _last_done(store: ObjectStore, path: str) -> tuple[int, bytes | None]:
    """The number of the last claim, and the object's contents, once that claim is completed."""
    begun = time.monotonic()
    while True:
        last, current = max(_numbers(store, path), default=0), store.get(path)
        claim, waited = _read(store, path, last), time.monotonic() - begun
        if claim and not claim[1]:  # its writer died, or is about to complete it
            _complete(store, path, last, claim[0])
        elif (claim and (claim[0] == current or waited > PUT_BACK_SECONDS)) or (
            not claim and (last == 0 or waited > PARTIAL_CLAIM_SECONDS)
        ):
            return last, current
        else:
            time.sleep(PAUSE)


def _complete(store: ObjectStore, path: str, number: int, data: bytes) -> None:
    """Copy a claim to the object and mark the claim as done, unless there is a later claim. If a later claim appears
    after the copy, that claim is completed instead."""
    copied = False
    while True:
        last = max(_numbers(store, path), default=number)
        if last > number:
            later = _read(store, path, last) if copied else None
            if later is None:
                return
            number, data = last, later[0]
        elif copied:
            store.put(_name(path, number), _claim(data, done=True))
            return
        store.put(path, data)
        copied = True


def _name(path: str, number: int) -> str:
    return f"{CLAIMS}/{path}/{number:08d}"


def _numbers(store: ObjectStore, path: str) -> list[int]:
    return sorted(int(name) for name in store.names(f"{CLAIMS}/{path}") if name.isdecimal())


def _read(store: ObjectStore, path: str, number: int) -> tuple[bytes, bool] | None:
    return _parse(store.get(_name(path, number)) or b"") if number else None


def _claim(data: bytes, done: bool = False) -> bytes:
    return f"{'done' if done else 'claimed'} {hashlib.sha256(data).hexdigest()}\n".encode() + data


def _parse(claim: bytes) -> tuple[bytes, bool] | None:
    """The contents of a claim and whether it is done. None if the claim is missing or incomplete."""
    data = claim.partition(b"\n")[2]
    return next(((data, done) for done in (False, True) if claim == _claim(data, done)), None)
