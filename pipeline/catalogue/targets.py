"""Where a catalogue is read, and published to: a folder, a bucket, or a dataset repository of the Hugging Face hub.

    target("s3://bucket/public").put_all([("index/0123456789abcdef.json.gz", lambda: data)])
    target("hf:datasets/OWNER/NAME").sizes()

The hub takes several files in a commit, which its readers see at once.
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
from pipeline.storage.folder import Folder

HUB = "hf:"
FILES, BYTES = 200, 64 << 20
"""Of a commit, at most."""


def address(url: str, storage: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where to read. A repository of the hub is read as the website it is: a request for each object, and no more."""
    url = re.sub(r"/(catalogue\.json|site/index\.html|site/?)$", "", url)  # what a browser shows of it
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
    """Objects elsewhere."""

    url: str

    def sizes(self) -> dict[str, int]:
        """Bytes of every object that is there, by its path."""

    def put_all(self, objects: Iterable[tuple[str, Callable[[], bytes]]]) -> None:
        """Write several objects, each read when its turn has come."""

    def change(self, path: str, make: changes.Make) -> bytes:
        """Replace an object that several writers change; as `changes.change`."""


class Place(Folder):
    """A folder or a bucket."""

    def change(self, path: str, make: changes.Make) -> bytes:
        return changes.change(self, path, make)


def target(url: str, options: Mapping[str, Any] | None = None) -> Target:
    """The place that a path or URL names. Raises `UserError` for one that cannot be written to."""
    if not url.strip():
        raise UserError("nowhere to publish to: give a folder, a bucket or hf:datasets/OWNER/NAME")
    if url.startswith(HUB):
        return Repository(url)
    if url.startswith(("http://", "https://")):
        raise UserError(f"{url}: a website cannot be written to; publish to the folder or bucket that it serves")
    return Place(url, options)


class Repository:
    """A dataset repository of the hub. The token is the environment's (`hf auth login`, HF_TOKEN)."""

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
            its = self._hub.list_repo_tree(self._repository, recursive=True, repo_type="dataset", revision="main")
            return {entry.path: entry.size for entry in its if isinstance(entry, RepoFile)}

        found: dict[str, int] = self._telling(entries)
        return found

    def put_all(self, objects: Iterable[tuple[str, Callable[[], bytes]]]) -> None:
        commit: dict[str, bytes] = {}
        for path, read in itertools.chain(objects, [("", bytes)]):  # the last is no object
            if commit and (not path or len(commit) == FILES or sum(map(len, commit.values())) > BYTES):
                self._telling(self._commit, commit)
                commit = {}
            if path:
                commit[path] = read()

    def change(self, path: str, make: changes.Make) -> bytes:
        """As `changes.change`: the hub refuses a commit upon another than the last one."""
        while True:
            there, last = self._telling(self._now, path)
            after = make(there)
            if after == there or self._telling(self._committed_upon, last, {path: after}):
                return after

    def _now(self, path: str) -> tuple[bytes | None, str]:
        """An object's content, None if it is not there, and the last commit."""
        from huggingface_hub.errors import EntryNotFoundError

        last = self._hub.repo_info(self._repository, repo_type="dataset", revision="main").sha
        with contextlib.suppress(EntryNotFoundError):
            file = self._hub.hf_hub_download(self._repository, path, repo_type="dataset", revision=last)
            return Path(file).read_bytes(), str(last)
        return None, str(last)

    def _committed_upon(self, last: str, files: Mapping[str, bytes]) -> bool:
        """Whether a commit was made, as the next one after `last`."""
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

    def _telling(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """What the hub refuses, as one line."""
        try:
            return action(*arguments)
        except Exception as error:  # the hub's own, and those of whatever HTTP library its client has
            from extractors.download.files import line_of

            raise UserError(
                f"{self.url}: {line_of(error)}; is there a network, a repository of that name, and a token "
                "(hf auth login)?"
            ) from None
