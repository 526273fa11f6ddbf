"""WebDataset's conventions for the names of shards and of the files in a shard.

    split("000/a.seg.png")                    # ("000/a", "seg.png"): the sample's key, and the part that the file is
    matches("seg.png", "jpg;*.png")           # True: the image key names this part
    is_metadata("__index__")                  # True: the file belongs to no sample
    list(shard_names("x-{000..127}.tar"))     # 128 names

Consecutive files of a tar with the same key form one sample: for instance `a.jpg`, `a.cls`, `a.json` and `a.txt`.

Source: the library webdataset 1.0.2 (`tariterators.base_plus_ext`, `tar_file_iterator` and `group_by_keys`,
`shardlists.expand_urls`, `filters.getfirst`, `gopen.gopen_schemes`). tests/unit/pipeline/test_webdataset_names.py
compares this module with the installed library, and names each difference.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

import braceexpand

COMMAND = "pipe:"
"""Beginning of a name that WebDataset runs as a shell command. Such names are refused here."""


def split(name: str) -> tuple[str, str]:
    """Split a file's name into the key of its sample and the part of the sample that the file is.

    The key ends at the first dot of the file's name. The part is what follows that dot, in lower case.
    """
    folder, slash, file = name.rpartition("/")
    stem, _, part = file.partition(".")
    return f"{folder}{slash}{stem}", part.lower()


def matches(part: str, key: str) -> bool:
    """Whether an image key names a part of a sample.

    A key is `jpg`, `seg.png`, a pattern such as `*.png`, or several of these separated by `;`. Its case and leading
    dots do not matter.
    """
    return any(fnmatchcase(part, pattern) for pattern in _patterns(key))


def is_key(key: str) -> bool:
    """Whether a key names any part. With an empty key, the endings of file names decide which files are images."""
    return bool(_patterns(key))


def is_metadata(name: str) -> bool:
    """Whether the name of a file or a folder begins and ends with two underscores, which marks it as metadata."""
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def shard_names(url: str, exists: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
    """Expand the brace ranges of a URL. If `exists` finds a part of the path under its literal name, its braces are not
    expanded."""
    if "{" not in url:
        return iter([url])
    parts = url.replace("\\", "\\\\").split("/")
    for i, part in enumerate(parts):
        if ("{" in part or "}" in part) and exists("/".join(url.split("/")[: i + 1])):
            parts[i] = re.sub(r"([{},])", r"\\\1", part)
    try:
        names = iter(braceexpand.braceexpand("/".join(parts)))
        return itertools.chain([next(names)], names)
    except ValueError:  # an unmatched brace
        return iter([url])


def _patterns(key: str) -> list[str]:
    return [pattern.strip().lower().removeprefix(".") for pattern in key.split(";") if pattern.strip()]
