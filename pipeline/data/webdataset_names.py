"""WebDataset's conventions: what the names of shards, and of the files in a shard, say.

    split("000/a.seg.png")                    # ("000/a", "seg.png"): the sample's key, and which part of it the file is
    matches("seg.png", "jpg;*.png")           # True: the part is one that an image key names
    is_metadata("__index__")                  # True: no part of any sample
    list(shard_names("x-{000..127}.tar"))     # 128 names

Files of one key that follow each other in a tar are one sample: `a.jpg`, and beside it `a.cls`, `a.json`, `a.txt`.

Source: the library webdataset 1.0.2 (`tariterators.base_plus_ext`, `tar_file_iterator` and `group_by_keys`,
`shardlists.expand_urls`, `filters.getfirst`, `gopen.gopen_schemes`). tests/test_webdataset_names.py compares with the
installed library, and names each difference.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

import braceexpand

COMMAND = "pipe:"
"""WebDataset runs what follows in a shell; such a name is refused here."""


def split(name: str) -> tuple[str, str]:
    """The key of a file's sample, up to the first dot of the file's name, and the part of the sample that the file is:
    what follows that dot, in lower case."""
    folder, slash, file = name.rpartition("/")
    stem, _, part = file.partition(".")
    return f"{folder}{slash}{stem}", part.lower()


def matches(part: str, key: str) -> bool:
    """Whether a part of a sample is one that a key names: `jpg`, `seg.png`, a pattern such as `*.png`, or several of
    these with `;` between them. Keys are of any case, with or without a leading dot."""
    return any(fnmatchcase(part, pattern) for pattern in _patterns(key))


def is_key(key: str) -> bool:
    """Whether a key names any part; an empty one leaves it to the endings of names."""
    return bool(_patterns(key))


def is_metadata(name: str) -> bool:
    """Whether the name of a file or a folder marks it as metadata: two underscores on both sides."""
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def shard_names(url: str, exists: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
    """The names that a URL with brace ranges stands for. A part of the path that exists as it is written is a name."""
    if "{" not in url:
        return iter([url])
    parts = url.replace("\\", "\\\\").split("/")
    for i, part in enumerate(parts):
        if ("{" in part or "}" in part) and exists("/".join(url.split("/")[: i + 1])):
            parts[i] = re.sub(r"([{},])", r"\\\1", part)
    try:
        names = iter(braceexpand.braceexpand("/".join(parts)))
        return itertools.chain([next(names)], names)
    except ValueError:  # a brace without its other one
        return iter([url])


def _patterns(key: str) -> list[str]:
    return [pattern.strip().lower().removeprefix(".") for pattern in key.split(";") if pattern.strip()]
