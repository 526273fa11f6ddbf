"""Files of the Hugging Face hub, named `hf:OWNER/NAME/FILE` (model) or `hf:datasets/OWNER/NAME/FILE` (dataset).

local("hf:datasets/me/vdnas/digits", ("json", "npz"))  # downloads two files; returns their path without an ending
publish([Path("digits.json"), Path("digits.npz")], "hf:datasets/me/vdnas/digits")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub

from extractors.download import hub_client
from extractors.download.files import fetch, line_of
from pipeline.errors import UserError
from pipeline.storage.disk import expand_home

HUB = "hf:"


def local(source: str, endings: Sequence[str] = ()) -> Path:
    """The local path of a file, which is downloaded first if `source` is a name on the hub or a web URL.

    With `endings`, `source` stands for several files NAME.ENDING; returns the local path without an ending. Web URLs
    are not accepted then. Raises `UserError`.
    """
    web = source.startswith(("http://", "https://"))
    if web and endings:
        raise UserError(f"{source}: fetch NAME.json and NAME.npz first, and give their path; or give hf:")
    if not web and not source.startswith(HUB):
        return expand_home(source)
    for ending in endings:
        source = source.removesuffix(f".{ending}")
    try:
        paths = [fetch(f"{source}.{ending}" if ending else source) for ending in endings or ("",)]
    except OSError as error:
        raise UserError(f"{source}: {error}") from None
    return paths[0].with_suffix("") if endings else paths[0]


def publish(files: Sequence[Path], target: str) -> list[str]:
    """Upload files to a hub repository in one commit, each as `target` with the file's own ending.

    Returns the files' names on the hub. The token comes from the environment (`hf auth login`, HF_TOKEN). Raises
    `UserError`.
    """
    kind = "dataset" if target.startswith(f"{HUB}datasets/") else "model"
    parts = target.removeprefix(HUB).removeprefix("datasets/").split("/", 2)
    if len(parts) < 3 or not all(parts) or parts[2].endswith("/"):
        raise UserError(f"{target}: give hf:OWNER/NAME/FILE or hf:datasets/OWNER/NAME/FILE")
    repository, name = "/".join(parts[:2]), parts[2]
    hub_client.prepare()
    names = [f"{name.removesuffix(file.suffix)}{file.suffix}" for file in files]
    try:
        pairs = zip(names, files, strict=True)
        commit = [huggingface_hub.CommitOperationAdd(path_in_repo=n, path_or_fileobj=file) for n, file in pairs]
        huggingface_hub.HfApi().create_commit(
            repository, commit, commit_message=f"VDNA {name}", repo_type=kind, revision="main"
        )
    except Exception as error:  # the hub's errors, and those of its HTTP library
        raise UserError(f"{target}: {line_of(error)}; is there a network, and a token (hf auth login)?") from None
    return [f"{target.removesuffix(name)}{uploaded}" for uploaded in names]
