"""The HTTP clients of fsspec's websites and of S3, on the ways that `extractors.download.web` finds in the environment.

    options = heeding("s3", options)          # fsspec's options, with what makes its client ask there

What the user's own options say of proxies, certificates and connections stands.
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

BY_ENVIRONMENT = "by the environment"
"""In place of a proxy's address: proxies are chosen for each request."""


def heeding(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a store's client, which goes where the environment says unless they say it.

    The authorities of this moment are part of them: fsspec keeps a client for the options that it was made with, and
    another authority asks for another client.
    """
    if protocol in ("http", "https"):
        return {"get_client": partial(_web, web.bundles()), **options}
    if protocol in ("s3", "s3a"):
        way = f"{BY_ENVIRONMENT}, {web.bundles()}"
        usual = {"http_session_cls": _S3, "proxies": {"http": way, "https": way}}
        return {**options, "config_kwargs": {**usual, **options.get("config_kwargs", {})}}
    if protocol == "hf":
        from extractors.download import hub_client  # loads all of huggingface_hub

        hub_client.prepare()
    return dict(options)


async def _web(_: Mapping[str, str], **options: Any) -> aiohttp.ClientSession:
    """fsspec's client of websites."""
    wrong: list[web.WebError] = []
    if "connector" not in options:
        try:
            options["connector"] = aiohttp.TCPConnector(ssl=web.context())
        except web.Refused as error:  # of no account to who needs no TLS
            wrong.append(error)

    async def heed(request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        url = str(request.url)
        if wrong and request.url.scheme == "https":
            raise wrong[0]
        its = web.proxy(url) if request.proxy is None else None
        if its:
            # aiohttp sends it on as Proxy-Authorization, and to the proxy alone.
            request.update_proxy(URL(its.bare), None, {"Authorization": its.login} if its.login else None)
        try:
            answer = await handler(request)
        except aiohttp.ClientError as error:
            if its or request.proxy is None:
                raise web.fault(error, url) or error from None
            raise
        if its and answer.status == 407:
            answer.close()
            raise web.refusal(its, 407, url)
        web.meet(url)
        return answer

    options["middlewares"] = (*options.get("middlewares", ()), heed)
    return aiohttp.ClientSession(**options)


class _Proxies:
    """What botocore asks for the proxy of a URL."""

    settings: Mapping[str, Any] = {}

    def proxy_url_for(self, url: str) -> str | None:
        its = web.proxy(url)
        return its.url if its else None

    def proxy_headers_for(self, url: str) -> dict[str, str]:
        return {}  # aiohttp makes them from the proxy's URL


class _S3(AIOHTTPSession):  # type: ignore[misc]  # untyped
    """S3's client."""

    def __init__(self, verify: Any = True, proxies: Mapping[str, str] | None = None, **options: Any) -> None:
        self._heeds = (proxies or {}).get("http", "").startswith(BY_ENVIRONMENT)
        # A path that botocore has from these variables is one of those that `trust` reads.
        self._trusts = verify is None or verify is True or verify in web.bundles().values()
        super().__init__(verify=True if self._trusts else verify, proxies=None if self._heeds else proxies, **options)
        if self._heeds:
            self._proxy_config = _Proxies()

    def _build_verify_context(self) -> Any:
        made = super()._build_verify_context()
        if self._trusts:
            web.trust(made)
        return made

    async def send(self, request: Any) -> Any:
        url = str(request.url)
        try:
            answer = await super().send(request)
        except Exception as error:  # botocore's, which wrap aiohttp's
            if self._heeds and (said := web.fault(error, url)):
                raise said from None  # which botocore does not try again
            raise
        its = None
        if self._heeds and answer.status_code == 407:
            with contextlib.suppress(web.Refused):
                its = web.proxy(url)
        if its:
            raise web.refusal(its, 407, url)
        web.meet(url)
        return answer
