"""HTTP clients for websites and S3 that use the proxies and certificate authorities of the environment.

    options = with_environment("s3", options)     # fsspec options whose client follows the environment

`extractors.download.web` reads the environment. Proxies, certificates and connectors in the user's own options take
precedence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from aiohttp.client_middlewares import ClientHandlerType
from yarl import URL

from extractors.download import web
from extractors.errors import Refused, WebError

BY_ENVIRONMENT = "by the environment"
"""Stands in place of a proxy's address: the proxy is chosen for each request."""


def with_environment(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fsspec options of a store, extended so that its client follows the environment.

    The options name the current certificate bundles. fsspec keeps one client for each set of options, so a change of
    the bundles leads to a new client.
    """
    if protocol in ("http", "https"):
        return {"get_client": partial(_web, web.bundles()), **options}
    if protocol in ("s3", "s3a"):
        proxy = f"{BY_ENVIRONMENT}, {web.bundles()}"
        defaults = {"http_session_cls": _S3, "proxies": {"http": proxy, "https": proxy}}
        return {**options, "config_kwargs": {**defaults, **options.get("config_kwargs", {})}}
    if protocol == "hf":
        from extractors.download import hub_client  # loads all of huggingface_hub

        hub_client.prepare()
    return dict(options)


async def _web(_: Mapping[str, str], **options: Any) -> aiohttp.ClientSession:
    """fsspec's client for websites."""
    tls_errors: list[WebError] = []
    if "connector" not in options:
        try:
            options["connector"] = aiohttp.TCPConnector(ssl=web.context())
        except Refused as error:  # matters only to requests that use TLS
            tls_errors.append(error)

    async def use_environment(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        url = str(request.url)
        if tls_errors and request.url.scheme == "https":
            raise tls_errors[0]
        proxy = web.proxy(url) if request.proxy is None else None
        if proxy:
            # aiohttp sends this header as Proxy-Authorization, and to the proxy alone.
            request.update_proxy(URL(proxy.bare), None, {"Authorization": proxy.login} if proxy.login else None)
        try:
            answer = await handler(request)
        except aiohttp.ClientError as error:
            if proxy or request.proxy is None:
                raise web.fault(error, url) or error from None
            raise
        if proxy and answer.status == 407:
            answer.close()
            raise web.refusal(proxy, 407, url)
        web.mark_answered(url)
        return answer

    options["middlewares"] = (*options.get("middlewares", ()), use_environment)
    return aiohttp.ClientSession(**options)


class _Proxies:
    """Tells botocore which proxy a URL is requested through."""

    settings: Mapping[str, Any] = {}

    def proxy_url_for(self, url: str) -> str | None:
        proxy = web.proxy(url)
        return proxy.url if proxy else None

    def proxy_headers_for(self, url: str) -> dict[str, str]:
        return {}  # aiohttp makes them from the proxy's URL


class _S3(AIOHTTPSession):  # type: ignore[misc]  # untyped
    """botocore's client for S3."""

    def __init__(self, verify: Any = True, proxies: Mapping[str, str] | None = None, **options: Any) -> None:
        self._by_environment = (proxies or {}).get("http", "").startswith(BY_ENVIRONMENT)
        # botocore takes a path from the same variables that `web.trust` reads: it is not the user's own option.
        self._trusts = verify is None or verify is True or verify in web.bundles().values()
        proxies = None if self._by_environment else proxies
        super().__init__(verify=True if self._trusts else verify, proxies=proxies, **options)
        if self._by_environment:
            self._proxy_config = _Proxies()

    def _build_verify_context(self) -> Any:
        context = super()._build_verify_context()
        if self._trusts:
            web.trust(context)
        return context

    async def send(self, request: Any) -> Any:
        url = str(request.url)
        try:
            answer = await super().send(request)
        except Exception as error:  # botocore's, which wrap aiohttp's
            if self._by_environment and (fault := web.fault(error, url)):
                raise fault from None  # botocore does not retry this error
            raise
        proxy = None
        if self._by_environment and answer.status_code == 407:
            with contextlib.suppress(Refused):
                proxy = web.proxy(url)
        if proxy:
            raise web.refusal(proxy, 407, url)
        web.mark_answered(url)
        return answer
