"""What the errors of stores' clients mean: each has its own."""

from __future__ import annotations

import errno

import aiohttp
from botocore.exceptions import (
    InvalidConfigError,
    InvalidRetryConfigurationError,
    InvalidS3AddressingStyleError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from extractors.download.web import Refused, known
from pipeline.errors import UserError

LASTING = (
    *(FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ValueError, TypeError, NotImplementedError, ImportError, MemoryError, UserError),
    *(NoCredentialsError, PartialCredentialsError, Refused),
)
"""What another try does not change."""

NOWHERE = (errno.ELOOP, errno.ENAMETOOLONG)
"""What systems say of paths where nothing can be."""

OPTIONS = (
    *(InvalidConfigError, InvalidRetryConfigurationError, InvalidS3AddressingStyleError, NoRegionError),
    ProfileNotFound,
)
"""What S3's client says of options that cannot be."""

REFUSALS = {
    **dict.fromkeys((401, 403, 405, 407, 411, 413, 414, 415, 416, 451), PermissionError),
    **{404: FileNotFoundError, 410: FileNotFoundError, 412: FileExistsError, 501: NotImplementedError},
}
"""Answers of web servers that another try does not change. Others may pass: S3 says 400 of a body cut short."""


def lasts(error: Exception, status: int) -> bool:
    """Whether another try cannot change an error, of that HTTP status if it has one."""
    return getattr(error, "errno", None) in NOWHERE or (isinstance(error, LASTING) and status in (0, *REFUSALS))


def unwrapped(error: Exception) -> Exception:
    """The error itself: fsspec says of a website that cannot be reached that the file is not there, and aiohttp has an
    error of its own for what is said of the way there."""
    if said := known(error):
        return said
    cause = error.__cause__
    if type(error) is FileNotFoundError and isinstance(cause, OSError | aiohttp.ClientConnectionError):
        return error if isinstance(cause, FileNotFoundError) else cause
    return error


def status_of(error: Exception) -> int:
    """The HTTP status behind an error of aiohttp's or botocore's; 0 if there is none."""
    for link in (error, error.__cause__):
        answer = getattr(link, "response", None)
        status = getattr(link, "status", None)
        if isinstance(answer, dict):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
    return 0
