"""Proxies and certificates of `web` for huggingface_hub, and for libraries that download with it (timm, open_clip)."""

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
    """Give huggingface_hub a client that uses the proxies and certificates of `web`. A client set by the user stays."""
    factory = getattr(_http, "_GLOBAL_CLIENT_FACTORY", None)
    if not getattr(factory, "__module__", "huggingface_hub").startswith("huggingface_hub"):
        return
    error = HfHubHTTPError.__mro__[1]
    httpx: Any = sys.modules[error.__module__.partition(".")[0]]  # httpx or httpx2, by the hub's version
    transport = _transport(httpx)
    # These are the options of the hub's own client. That client cannot be made to read them: it fails at once if a
    # variable of the environment has a value that it does not accept.
    options = {"event_hooks": {"request": [_http.hf_request_event_hook]}, "follow_redirects": True, "timeout": None}
    huggingface_hub.set_client_factory(lambda: httpx.Client(**options, transport=transport()))


def _transport(httpx: Any) -> type:
    class Transport(httpx.BaseTransport):  # type: ignore[misc]
        def __init__(self) -> None:
            self._made: dict[tuple[str, str | None, tuple[tuple[str, str], ...]], Any] = {}

        def handle_request(self, request: Any) -> Any:
            url = str(request.url)
            try:
                via = proxy(url)
                key = (request.url.scheme, via.url if via else None, tuple(bundles().items()))
                if key not in self._made:
                    # Without TLS the context is not used, so a context that trusts no authority is enough.
                    secure = any(name and name.startswith("https") for name in key[:2])
                    verify = context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                    self._made[key] = httpx.HTTPTransport(verify=verify, proxy=key[1])
                answer = self._made[key].handle_request(request)
            except (httpx.TransportError, WebError) as error:
                web_error = fault(error, url)
                if web_error is None:
                    raise
                # On this exception the hub's code uses its cache. It would retry ConnectError for half a minute, and
                # not use its cache after ProxyError.
                raise OfflineModeIsEnabled(str(web_error)) from web_error
            if via and answer.status_code == 407:
                answer.close()
                web_error = refusal(via, 407, url)
                raise OfflineModeIsEnabled(str(web_error)) from web_error
            mark_answered(url)
            return answer

        def close(self) -> None:
            for transport in self._made.values():
                transport.close()

    return Transport
