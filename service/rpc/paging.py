"""Page tokens: where the next page starts, and of which call it is."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from service.errors import BadLimitError, BadPageTokenError

DEFAULT_PAGE = 100
MAX_PAGE = 1000


def page_size(asked: int) -> int:
    """The size to use for the one asked for; raises `BadLimitError` if it is negative."""
    if asked < 0:
        raise BadLimitError(f"page_size is {asked}; give 0 for {DEFAULT_PAGE}, or more")
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def encode_token(call: bytes, last: str) -> str:
    """The token of the page after `last`; `call`: what must be the same in the next call."""
    return base64.urlsafe_b64encode(json.dumps([_digest(call), last]).encode()).decode()


def decode_token(call: bytes, token: str) -> str:
    """The `last` of a token, "" of an empty one; raises `BadPageTokenError`."""
    if not token:
        return ""
    try:
        digest, last = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadPageTokenError("page_token is not one of ours; start without one") from error
    if digest != _digest(call) or not isinstance(last, str):
        raise BadPageTokenError("page_token is of another call; start without one")
    return last


def _digest(call: bytes) -> str:
    return hashlib.sha256(call).hexdigest()[:16]
