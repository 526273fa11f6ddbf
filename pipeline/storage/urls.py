"""Separating the secret parts of URLs and store options from an object's name.

unsigned("https://host/a.tar?sv=1&sig=x")   # ("https://host/a.tar", "sv=1&sig=x")
redact("https://me:pw@host/a")              # "https://***@host/a", for messages
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError

TEXTS = (
    *("key", "secret", "token", "username", "user", "password", "passphrase", "profile", "endpoint_url", "region_name"),
    *("account_name", "account_key", "sas_token", "connection_string", "client_id", "client_secret", "tenant_id"),
    *("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
)
"""Store options that are texts even if their values look like numbers."""


def is_text(option: str) -> bool:
    """Whether a store option is always a text. Dots separate the names of nested options."""
    *above, name = option.split(".")
    return name in TEXTS or "headers" in above


SIGNING = (
    r"x-(?:amz|goog|oss|obs|ms)-[\w-]+|q-[\w-]+|\w*accesskeyid|\w*accessid|[\w-]*signature|[\w-]*credential|"
    r"expires|policy|key-pair-id|[\w-]*token|\w*password|\w*secret\w*|api[_-]?key|auth\w*|hmac"
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters: they move a terminal's cursor, begin escape sequences or change the direction of text."""
AZURE = "sig|sv|ss|srt|sr|se|st|sp|spr|sip|skoid|sktid|skt|ske|sks|skv"
"""Further parameters of a URL that is signed for Azure."""


def unsigned(url: str) -> tuple[str, str]:
    """A URL without its signature, and the signature: the parameters of its query that are secret and expire."""
    path, _, query = url.partition("?")
    if not url.lower().startswith(("http://", "https://")) or not query:  # elsewhere `?` is part of a name
        return url, ""
    names = f"{SIGNING}|{AZURE}" if re.search(r"(^|&)sig=", query) else SIGNING
    signing = [p for p in query.split("&") if re.fullmatch(names, p.partition("=")[0], re.IGNORECASE)]
    rest = [p for p in query.split("&") if p not in signing]
    return path + ("?" if rest else "") + "&".join(rest), "&".join(signing)


def signed(url: str, signing: str = "") -> str:
    """The URL from which `unsigned` has split the signature."""
    return url + ("&" if "?" in url else "?") * bool(signing) + signing


def redact(text: str) -> str:
    """A text for messages: passwords and signatures in its URLs become `***`, control characters are escaped."""
    text = CONTROL.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)
    text = re.sub(r"(?<=://)[^/@\s]*:[^@\s'\"]*@|(?<=https://)[^/@\s]*@|(?<=http://)[^/@\s]*@", "***@", text)
    return re.sub(rf"(?<=[?&])({SIGNING}|sig)=[^&\s'\"]*", r"\1=***", text, flags=re.IGNORECASE)


def check_store_options(url: str, options: Mapping[str, Any], above: str = "") -> None:
    """Raise `UserError` for options in a form that no store accepts. The message does not show their values, which may
    be secret. `above` is the dotted name of the option that holds `options`."""
    for key, value in options.items():
        option = f"{above}{key}"
        if isinstance(value, Mapping):
            check_store_options(url, value, f"{option}.")
        elif key.endswith("_kwargs") or (key == "headers" and value is not None):
            raise UserError(f"{url}: option {option} of its store holds others; give {option}.NAME=VALUE")
        elif key == "endpoint_url" and value is not None and not re.match(r"https?://[^/]", str(value)):
            raise UserError(f"{url}: option {option} of its store: give http://HOST:PORT or https://HOST")
