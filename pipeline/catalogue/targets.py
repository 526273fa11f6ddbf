"""Places to read a catalogue from and to publish to: folders, buckets and dataset repositories of the Hugging Face hub.

    target("s3://bucket/public").put_all([("index/0123456789abcdef.json.gz", lambda: data)])
    target("hf:datasets/OWNER/NAME").sizes()

Files go to the hub in commits of several files. A reader sees all files of a commit at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.storage import changes
from pipeline.storage.folder import ObjectStore

HUB = "hf:"
FILES, BYTES = 200, 64 << 20
"""Largest number of files, and of bytes, in one commit."""


def address(url: str, storage: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The URL and fsspec options to read a catalogue with. Raises `UserError` if an `hf:` URL does not name a dataset.

    A repository of the hub is read as a website, with a single request for each object. The user's token is added.
    """
    url = re.sub(r"/(catalogue\.json|site/index\.html|site/?)$", "", url)  # endings of URLs copied from a browser
    if not url.startswith(HUB):
        return url, storage
    path = url.removeprefix(HUB).strip("/")
    if path.count("/") < 2 or not path.startswith("datasets/"):
        raise UserError(f"catalogue={url}: give hf:datasets/OWNER/NAME")
    kind, owner, name, *inside = path.split("/")
    name, _, revision = name.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    from huggingface_hub import get_token

    token = get_token()
    if token and "headers" not in storage:
        storage = {**storage, "headers": {"authorization": f"Bearer {token}"}}
    return "/".join([endpoint, kind, owner, name, "resolve", revision or "main", *inside]), storage


class Target(Protocol):
    """A place to publish to."""

    url: str

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every object, by its path."""

    def put_all(self, objects: Iterable[tuple[str, Callable[[], bytes]]]) -> None:
        """Write objects, given as paths and functions that read them. Each object is read just before it is written."""

    def change(self, path: str, make: changes.Make) -> bytes:
        """Replace an object that other writers may replace at the same time. See `pipeline.storage.changes.change`."""


class FolderTarget(ObjectStore):
    """A folder or a bucket."""

    def change(self, path: str, make: changes.Make) -> bytes:
        return changes.change(self, path, make)


def target(url: str, options: Mapping[str, Any] | None = None) -> Target:
    """The target at a path or URL. Raises `UserError` if it cannot be written to. `options` are fsspec options."""
    if not url.strip():
        raise UserError("nowhere to publish to: give a folder, a bucket or hf:datasets/OWNER/NAME")
    if url.startswith(HUB):
        return HubTarget(url)
    if url.startswith(("http://", "https://")):
        raise UserError(f"{url}: a website cannot be written to; publish to the folder or bucket that it serves")
    return FolderTarget(url, options)


class HubTarget:
    """A dataset repository of the hub, written with the user's token (`hf auth login`, HF_TOKEN)."""

    def __init__(self, url: str) -> None:
        import huggingface_hub

        from extractors.download import hub_client

        hub_client.prepare()
        kind, _, repository = url.removeprefix(HUB).strip("/").partition("/")
        if kind != "datasets" or repository.count("/") != 1 or not all(repository.split("/")):
            raise UserError(f"{url}: give hf:datasets/OWNER/NAME")
        self.url, self._repository = url, repository
        self._hub = huggingface_hub.HfApi()

    def sizes(self) -> dict[str, int]:
        from huggingface_hub.hf_api import RepoFile

        def entries() -> dict[str, int]:
            self._hub.create_repo(self._repository, repo_type="dataset", exist_ok=True)
            tree = self._hub.list_repo_tree(self._repository, recursive=True, repo_type="dataset", revision="main")
            return {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}

        sizes: dict[str, int] = self._call(entries)
        return sizes

    def put_all(self, objects: Iterable[tuple[str, Callable[[], bytes]]]) -> None:
        commit: dict[str, bytes] = {}
        for path, read in itertools.chain(objects, [("", bytes)]):  # the last pair only ends the last commit
            if commit and (not path or len(commit) == FILES or sum(map(len, commit.values())) > BYTES):
                self._call(self._commit, commit)
                commit = {}
            if path:
                commit[path] = read()

    def change(self, path: str, make: changes.Make) -> bytes:
        """See `pipeline.storage.changes.change`. The hub refuses a commit whose parent is not the last commit."""
        while True:
            current, last = self._call(self._current, path)
            new = make(current)
            if new == current or self._call(self._commit_after, last, {path: new}):
                return new

    def _current(self, path: str) -> tuple[bytes | None, str]:
        """An object's content, or None if it does not exist, and the last commit."""
        from huggingface_hub.errors import EntryNotFoundError

        last = self._hub.repo_info(self._repository, repo_type="dataset", revision="main").sha
        with contextlib.suppress(EntryNotFoundError):
            file = self._hub.hf_hub_download(self._repository, path, repo_type="dataset", revision=last)
            return Path(file).read_bytes(), str(last)
        return None, str(last)

    def _commit_after(self, last: str, files: Mapping[str, bytes]) -> bool:
        """Commit files with the parent `last`. False if the hub refuses because `last` is not the last commit."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self._commit(files, last)
        except HfHubHTTPError as error:
            if error.response.status_code not in (409, 412):
                raise
            return False
        return True

    def _commit(self, files: Mapping[str, bytes], last: str | None = None) -> None:
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in files.items()]
        message = f"VDNA catalogue: {len(files)} files"
        self._hub.create_commit(
            self._repository,
            operations,
            commit_message=message,
            repo_type="dataset",
            revision="main",
            parent_commit=last,
        )

    def _call(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Call an action, and turn an error of the hub into a `UserError` of one line."""
        try:
            return action(*arguments)
        except Exception as error:  # the hub's own errors, and those of its client's HTTP library
            from extractors.download.files import line_of

            raise UserError(
                f"{self.url}: {line_of(error)}; is there a network, a repository of that name, and a token "
                "(hf auth login)?"
            ) from None
