"""Page tokens: the last item of a page, and a digest of the call."""

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
    """The token of the page after the item `last`; call: must be equal in the next call."""
    return base64.urlsafe_b64encode(json.dumps([_digest(call), last]).encode()).decode()


def decode_token(call: bytes, token: str) -> str:
    """The last item of the page before, "" for an empty token; raises `BadPageTokenError`."""
    if not token:
        return ""
    try:
        digest, last = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise BadPageTokenError("page_token is malformed; start without one") from error
    if digest != _digest(call) or not isinstance(last, str):
        raise BadPageTokenError("page_token is of another call; start without one")
    return last


def _digest(call: bytes) -> str:
    return hashlib.sha256(call).hexdigest()[:16]
