"""URLs and the options of their stores: what in them is secret, and what is part of an object's name.

unsigned("https://host/a.tar?sv=1&sig=x")   # ("https://host/a.tar", "sv=1&sig=x")
redact("https://me:pw@host/a")      # "https://***@host/a", for people to read
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
"""Options of stores that are texts, also where they look like numbers."""


def is_text(option: str) -> bool:
    """Whether an option of a store, with dots for what is in another, is a text whatever it looks like."""
    *above, name = option.split(".")
    return name in TEXTS or "headers" in above


SIGNING = (
    r"x-(?:amz|goog|oss|obs|ms)-[\w-]+|q-[\w-]+|\w*accesskeyid|\w*accessid|[\w-]*signature|[\w-]*credential|"
    r"expires|policy|key-pair-id|[\w-]*token|\w*password|\w*secret\w*|api[_-]?key|auth\w*|hmac"
)
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that move a cursor, change colours or the direction of what follows: escape sequences begin with one."""
AZURE = "sig|sv|ss|srt|sr|se|st|sp|spr|sip|skoid|sktid|skt|ske|sks|skv"
"""Parameters of a signed URL: they open an object and are no part of its name."""


def unsigned(url: str) -> tuple[str, str]:
    """A URL's lasting part, and the part of its query that signs it: which is secret, and another every time."""
    path, _, query = url.partition("?")
    if not url.lower().startswith(("http://", "https://")) or not query:  # elsewhere `?` is part of a name
        return url, ""
    names = f"{SIGNING}|{AZURE}" if re.search(r"(^|&)sig=", query) else SIGNING
    signing = [p for p in query.split("&") if re.fullmatch(names, p.partition("=")[0], re.IGNORECASE)]
    rest = [p for p in query.split("&") if p not in signing]
    return path + ("?" if rest else "") + "&".join(rest), "&".join(signing)


def signed(url: str, signing: str = "") -> str:
    """What `unsigned` took apart."""
    return url + ("&" if "?" in url else "?") * bool(signing) + signing


def redact(text: str) -> str:
    """A text for people without the passwords and signatures of the URLs in it, and without what steers a terminal."""
    text = STEERING.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)
    text = re.sub(r"(?<=://)[^/@\s]*:[^@\s'\"]*@|(?<=https://)[^/@\s]*@|(?<=http://)[^/@\s]*@", "***@", text)
    return re.sub(rf"(?<=[?&])({SIGNING}|sig)=[^&\s'\"]*", r"\1=***", text, flags=re.IGNORECASE)


def check_store_options(url: str, given: Mapping[str, Any], above: str = "") -> None:
    """Raise `UserError`, without a value, for options that no store takes in that form."""
    for key, value in given.items():
        option = f"{above}{key}"
        if isinstance(value, Mapping):
            check_store_options(url, value, f"{option}.")
        elif key.endswith("_kwargs") or (key == "headers" and value is not None):
            raise UserError(f"{url}: option {option} of its store holds others; give {option}.NAME=VALUE")
        elif key == "endpoint_url" and value is not None and not re.match(r"https?://[^/]", str(value)):
            raise UserError(f"{url}: option {option} of its store: give http://HOST:PORT or https://HOST")
