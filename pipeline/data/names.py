"""What a file's name says: image, archive, or hidden.

is_image("a/b.JPG")                       # True
archive("000.tar.gz")                     # "tar"
hidden("photos/__MACOSX/._a.jpg")         # True
"""

from __future__ import annotations

IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm"),
    *(".avif", ".jp2", ".heic", ".heif"),
)
"""Endings by which a file counts as an image; one that cannot be decoded (HEIC) is skipped with its reason."""

ARCHIVES = {".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".zip": "zip", ".parquet": "parquet"}
"""Endings of archives. Whether a tar is compressed its first bytes decide."""

SYSTEM = {"__macosx", "@eadir", "@tmp", "#recycle", "$recycle.bin", "system volume information", "thumbs.db"}
"""What systems leave in folders beside people's files, in lower case."""


def is_web(name: str) -> bool:
    """Whether a name is a URL of a website, where a query may follow the path."""
    return name.lower().startswith(("http://", "https://"))


def ending(name: str) -> str:
    """A name to judge by its ending: lower case, and of a URL without the query."""
    return (name.partition("#")[0].partition("?")[0] if is_web(name) else name).lower()


def archive(name: str) -> str | None:
    """The kind of archive (tar, zip, parquet) that a name stands for, or None."""
    low = ending(name)
    return next((kind for end, kind in ARCHIVES.items() if low.endswith(end)), None)


def is_image(name: str) -> bool:
    """Whether a name is an image's, by its ending."""
    return ending(name).endswith(IMAGES)


def wanted(name: str) -> bool:
    """Whether a name is an image's or an archive's."""
    return archive(name) is not None or is_image(name)


def hidden(path: str) -> bool:
    """Whether a part of a path, below what the user named, is hidden, a system's, or WebDataset's metadata."""
    return any(_hidden(part) for part in path.split("/"))


def _hidden(part: str) -> bool:
    dotted = part.startswith(".") and part not in (".", "..")
    return dotted or part.lower() in SYSTEM or (len(part) > 4 and part.startswith("__") and part.endswith("__"))
