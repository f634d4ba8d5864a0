from __future__ import annotations

import base64

import pytest

from service.errors import BadLimitError, BadPageTokenError
from service.rpc.paging import decode_token, encode_token, page_size


@pytest.mark.parametrize(("asked", "size"), [(0, 100), (1, 1), (1000, 1000), (1001, 1000)])
def test_page_sizes(asked: int, size: int) -> None:
    assert page_size(asked) == size


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(BadLimitError, match="-1"):
        page_size(-1)


def test_a_token_gives_the_last_item() -> None:
    assert decode_token(b"call", encode_token(b"call", "s~1")) == "s~1"
    assert decode_token(b"call", "") == ""


@pytest.mark.parametrize(
    "token",
    [
        encode_token(b"another call", "s1"),
        "x",
        "ä",
        "!!!!",
        base64.urlsafe_b64encode(b"[]").decode(),
        base64.urlsafe_b64encode(b"{}").decode(),
        base64.urlsafe_b64encode(b"5").decode(),
        base64.urlsafe_b64encode(b"\xff\xff").decode(),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
        encode_token(b"call", "s1")[:-4],
    ],
)
def test_other_tokens_are_refused(token: str) -> None:
    with pytest.raises(BadPageTokenError, match="start without one"):
        decode_token(b"call", token)
