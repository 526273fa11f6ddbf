"""The client of huggingface_hub, and of what fetches through it (timm, open_clip, hf://), on the ways of `web`."""

from __future__ import annotations

import functools
import ssl
import sys
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import _http

from extractors.download.web import bundles, context, fault, mark_answered, proxy, refusal
from extractors.errors import WebError


@functools.cache
def prepare() -> None:
    """Let the hub's client heed the environment as the others do, unless it was given another client already."""
    factory = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None)
    if not getattr(factory, "__module__", "huggingface_hub").startswith("huggingface_hub"):
        return
    error = HfHubHTTPError.__mro__[1]
    httpx: Any = sys.modules[error.__module__.partition(".")[0]]  # or its successor, as the hub's version has it
    made = _transport(httpx)
    # As the hub makes its client, which cannot be asked: it would fail at once where a variable names what it dislikes.
    options = {"event_hooks": {"request": [_http.hf_request_event_hook]}, "follow_redirects": True, "timeout": None}
    huggingface_hub.set_client_factory(lambda: httpx.Client(**options, transport=made()))


def _transport(httpx: Any) -> type:
    class Transport(httpx.BaseTransport):  # type: ignore[misc]
        def __init__(self) -> None:
            self._made: dict[tuple[str, str | None, tuple[tuple[str, str], ...]], Any] = {}

        def handle_request(self, request: Any) -> Any:
            url = str(request.url)
            try:
                its = proxy(url)
                key = (request.url.scheme, its.url if its else None, tuple(bundles().items()))
                if key not in self._made:
                    # Without TLS on the way a context is not used; one that trusts nobody is in its place.
                    secure = any(name and name.startswith("https") for name in key[:2])
                    verify = context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                    self._made[key] = httpx.HTTPTransport(verify=verify, proxy=key[1])
                answer = self._made[key].handle_request(request)
            except (httpx.TransportError, WebError) as error:
                said = fault(error, url)
                if said is None:
                    raise
                # After this the hub's code goes on with what it has cached; ConnectError it tries again, for half a
                # minute, and after ProxyError it does not look into its cache.
                raise OfflineModeIsEnabled(str(said)) from said
            if its and answer.status_code == 407:
                answer.close()
                said = refusal(its, 407, url)
                raise OfflineModeIsEnabled(str(said)) from said
            mark_answered(url)
            return answer

        def close(self) -> None:
            for transport in self._made.values():
                transport.close()

    return Transport
