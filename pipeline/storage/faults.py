"""Classifying the errors of the stores' clients: permanent or passing.

error = root_cause(caught)
is_permanent(error, status_of(error))     # True: another try cannot help
"""

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

from extractors.download.web import web_error_behind
from extractors.errors import Refused
from pipeline.errors import UserError

PERMANENT = (
    *(FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ValueError, TypeError, NotImplementedError, ImportError, MemoryError, UserError),
    *(NoCredentialsError, PartialCredentialsError, Refused),
)
"""Errors that another try does not change."""

IMPOSSIBLE_PATH = (errno.ELOOP, errno.ENAMETOOLONG)
"""Error numbers for paths at which no file can exist."""

OPTION_ERRORS = (
    *(InvalidConfigError, InvalidRetryConfigurationError, InvalidS3AddressingStyleError, NoRegionError),
    ProfileNotFound,
)
"""Errors of S3's client for invalid options."""

REFUSALS = {
    **dict.fromkeys((401, 403, 405, 407, 411, 413, 414, 415, 416, 451), PermissionError),
    **{404: FileNotFoundError, 410: FileNotFoundError, 412: FileExistsError, 501: NotImplementedError},
}
"""HTTP statuses that another try does not change, and the error each becomes. Others may pass: S3 answers 400 to a
body that was cut short."""


def is_permanent(error: Exception, status: int) -> bool:
    """Whether another try cannot change an error. `status` is its HTTP status, or 0."""
    return getattr(error, "errno", None) in IMPOSSIBLE_PATH or (
        isinstance(error, PERMANENT) and status in (0, *REFUSALS)
    )


def root_cause(error: Exception) -> Exception:
    """The error behind the one that a client has raised.

    fsspec raises `FileNotFoundError` for a website that cannot be reached, and aiohttp wraps errors of the connection.
    """
    if web_error := web_error_behind(error):
        return web_error
    cause = error.__cause__
    if type(error) is FileNotFoundError and isinstance(cause, OSError | aiohttp.ClientConnectionError):
        return error if isinstance(cause, FileNotFoundError) else cause
    return error


def status_of(error: Exception) -> int:
    """The HTTP status behind an error of aiohttp or botocore, or 0."""
    for link in (error, error.__cause__):
        answer = getattr(link, "response", None)
        status = getattr(link, "status", None)
        if isinstance(answer, dict):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
    return 0
