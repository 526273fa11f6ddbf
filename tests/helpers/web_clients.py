"""The clients that reach the web, each as a function that gets one file of a website, and what it says if it cannot."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import fsspec
import huggingface_hub
import pytest
from huggingface_hub.utils import _http

from extractors.download import files, hub_client
from extractors.errors import FetchError
from pipeline.data.discovery import find
from pipeline.data.readers import ShardReader
from pipeline.errors import UserError
from pipeline.storage.folder import ObjectStore

SECRET = "geh:e/im@7"
"""A password with signs that a URL needs as %XX."""
LOGIN, GIVEN = f"me:{SECRET}", "me:geh%3Ae%2Fim%407"
AT_ONCE = 30.0
"""Seconds, of which a busy machine needs most; patience is 120."""
ERRORS = (UserError, FetchError)


def forget() -> None:
    """Let every client be made anew: they are made once, for the environment that is then."""
    hub_client.prepare.cache_clear()
    huggingface_hub.set_client_factory(_http.default_client_factory)
    for protocol in ("http", "s3"):
        fsspec.get_filesystem_class(protocol).clear_instance_cache()


def shard(url: str) -> bytes:
    (data,) = [data for shard in find(f"{url}/0.png") for _, data in ShardReader(shard)]
    assert isinstance(data, bytes)
    return data


def catalogue(url: str) -> bytes:
    return ObjectStore(f"{url}/public").get("catalogue.json") or b""


def s3(url: str) -> bytes:
    options = {"key": "key", "secret": "secret", "endpoint_url": url, "client_kwargs": {"region_name": "us-east-1"}}
    return ObjectStore("s3://bucket/public", options).get("catalogue.json") or b""


def weights(url: str) -> bytes:
    return files.fetch(f"{url}/net.pth").read_bytes()


def hub(url: str) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        patch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        return files.fetch("hf:me/net/weights.safetensors").read_bytes()


CLIENTS = pytest.mark.parametrize("client", [shard, catalogue, s3, weights, hub], ids=lambda client: client.__name__)
Client = Callable[[str], bytes]


def error_line(client: Client, url: str) -> str:
    """What a client says that does not get its file: one line, at once, without a password."""
    start = time.monotonic()
    with pytest.raises(ERRORS) as caught:
        client(url)
    assert time.monotonic() - start < AT_ONCE
    words = str(caught.value)
    assert "\n" not in words
    assert not any(secret in words for secret in (SECRET, GIVEN, "geh"))
    return words


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
