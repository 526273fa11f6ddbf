"""What a file's name says: image, archive, or hidden.

is_image("a/b.JPG")                       # True
archive("000.tar.gz")                     # "tar"
hidden("photos/__MACOSX/._a.jpg")         # True
"""

from __future__ import annotations

import re

from pipeline.data.webdataset_names import is_key, is_metadata, matches, split

IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm"),
    *(".avif", ".jp2", ".heic", ".heif"),
)
"""Endings by which a file counts as an image; one that cannot be decoded (HEIC) is skipped with its reason."""

COMPRESSED = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.lzma"),
    *(".tar.zst", ".tzst", ".tar.lz4"),
)
ARCHIVES = {".tar": "tar", **dict.fromkeys(COMPRESSED, "tar"), ".zip": "zip", ".parquet": "parquet"}
"""Endings of archives. Whether a tar is compressed, and how, its first bytes decide."""
UNREADABLE = (".tar.z", ".taz", ".tar.br", ".tar.lz", ".tlz", ".tar.lzo", ".tar.sz", ".7z", ".rar")
"""Endings of archives that may hold images and are not read."""
DESCRIPTIONS = (
    *(".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".cls", ".md"),
    *(".html", ".log", ".npy", ".npz", ".pdf", ".db", ".ini"),
)
"""Endings of files that lie beside images and describe them."""

SYSTEM = {
    *("__macosx", "@eadir", "@tmp", "#recycle", "@recycle", "$recycle.bin", "recycler", "lost+found", "paxheader"),
    *("@recently-snapshot", "#snapshot", "~snapshot", "system volume information", "found.000", "thumbs.db"),
}
"""What systems leave in folders beside people's files, in lower case."""


def is_web(name: str) -> bool:
    """Whether a name is a URL of a website, where a query may follow the path."""
    return name.lower().startswith(("http://", "https://"))


def is_url(name: str) -> bool:
    """Whether a name begins with a protocol."""
    return re.match(r"[^/]+://", name) is not None


def ending(name: str) -> str:
    """A name to judge by its ending: lower case, and of a URL without the query."""
    return (name.partition("#")[0].partition("?")[0] if is_web(name) else name).lower()


def archive(name: str) -> str | None:
    """The kind of archive (tar, zip, parquet) that a name stands for, or None."""
    low = ending(name)
    return next((kind for end, kind in ARCHIVES.items() if low.endswith(end)), None)


def is_image(name: str, key: str = "") -> bool:
    """Whether a name is an image's, by its ending; with a key, by which part of its sample it is.

    `webdataset_names` says what a key is.
    """
    if not is_key(key):
        return ending(name).endswith(IMAGES)
    return matches(sample(name)[1], key)


def wanted(name: str, key: str = "") -> bool:
    """Whether a name is an image's or an archive's."""
    return archive(name) is not None or is_image(name, key)


def sample(name: str) -> tuple[str, str]:
    """The name of a file's sample, and the part of it that the file is; of a URL without its query."""
    return split(name.partition("?")[0] if is_web(name) else name)


def hidden(path: str) -> bool:
    """Whether a part of a path, below what the user named, is hidden, a system's, or WebDataset's metadata."""
    return any(_hidden(part) for part in path.split("/"))


def turned(path: str) -> str:
    """A path with the separators of Windows turned, to be judged."""
    return path.replace("\\", "/")


def _hidden(part: str) -> bool:
    dotted = part.startswith(".") and part not in (".", "..")
    return dotted or part.lower() in SYSTEM or is_metadata(part)
