"""Classifying files by their names: image, archive, or hidden.

is_image("a/b.JPG")                       # True
archive_kind("000.tar.gz")                # "tar"
hidden("photos/__MACOSX/._a.jpg")         # True
"""

from __future__ import annotations

import re

from pipeline.data.webdataset_names import is_key, is_metadata, matches, split

IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm"),
    *(".avif", ".jp2", ".heic", ".heif"),
)
"""Endings of image files. An image that cannot be decoded (HEIC) is skipped with a reason."""

COMPRESSED = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.lzma"),
    *(".tar.zst", ".tzst", ".tar.lz4"),
)
ARCHIVES = {".tar": "tar", **dict.fromkeys(COMPRESSED, "tar"), ".zip": "zip", ".parquet": "parquet"}
"""Endings of archives, and their kinds. The first bytes of a tar decide how it is compressed, not its ending."""
UNREADABLE = (".tar.z", ".taz", ".tar.br", ".tar.lz", ".tlz", ".tar.lzo", ".tar.sz", ".7z", ".rar")
"""Endings of archives that may hold images but are not read."""
DESCRIPTIONS = (
    *(".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".cls", ".md"),
    *(".html", ".log", ".npy", ".npz", ".pdf", ".db", ".ini"),
)
"""Endings of files that lie beside images and describe them."""

SYSTEM = {
    *("__macosx", "@eadir", "@tmp", "#recycle", "@recycle", "$recycle.bin", "recycler", "lost+found", "paxheader"),
    *("@recently-snapshot", "#snapshot", "~snapshot", "system volume information", "found.000", "thumbs.db"),
}
"""Files and folders that operating systems create among the user's files, in lower case."""


def is_web(name: str) -> bool:
    """Whether a name is a URL of a website. Such a URL may have a query after its path."""
    return name.lower().startswith(("http://", "https://"))


def is_url(name: str) -> bool:
    """Whether a name begins with a protocol."""
    return re.match(r"[^/]+://", name) is not None


def lowered(name: str) -> str:
    """A name in lower case, without the query and fragment of a web URL, to compare its ending."""
    return (name.partition("#")[0].partition("?")[0] if is_web(name) else name).lower()


def archive_kind(name: str) -> str | None:
    """The kind of archive (`tar`, `zip` or `parquet`) that a file is by its name, or None."""
    lower = lowered(name)
    return next((kind for end, kind in ARCHIVES.items() if lower.endswith(end)), None)


def is_image(name: str, key: str = "") -> bool:
    """Whether a file is an image by its ending or, with a `key`, by the part of its sample that it is.

    `pipeline.data.webdataset_names` explains keys and samples.
    """
    if not is_key(key):
        return lowered(name).endswith(IMAGES)
    return matches(sample(name)[1], key)


def is_wanted(name: str, key: str = "") -> bool:
    """Whether a file is an image or an archive that is read, by its name."""
    return archive_kind(name) is not None or is_image(name, key)


def sample(name: str) -> tuple[str, str]:
    """The key of a file's sample, and the part of the sample that the file is. The query of a web URL is left out."""
    return split(name.partition("?")[0] if is_web(name) else name)


def hidden(path: str) -> bool:
    """Whether any part of a path is hidden, belongs to an operating system, or is WebDataset's metadata.

    `path` is relative to what the user has named.
    """
    return any(_hidden(part) for part in path.split("/"))


def with_slashes(path: str) -> str:
    """A path with slashes in place of the separators of Windows."""
    return path.replace("\\", "/")


def _hidden(part: str) -> bool:
    dotted = part.startswith(".") and part not in (".", "..")
    return dotted or part.lower() in SYSTEM or is_metadata(part)
