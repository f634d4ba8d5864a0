"""One form for names: Unicode's composed form NFC. No torch.

macOS gives names of files decomposed (NFD): what looks alike would be two cameras.
"""

from __future__ import annotations

from itertools import groupby
from unicodedata import combining, is_normalized, normalize

MAX_EXPANSION = 4
"""Code points that one code point of NFC has at most in any other spelling."""

UNSEEN = r"\u00ad\u200b\u2028-\u202e\u2060-\u206f\ufeff"
"""Characters that nobody sees, for a class of a regular expression: soft hyphen, blanks without
width, breaks of lines, controls of direction, byte order mark. Those that scripts and emoji need
(ZWNJ, ZWJ, LRM, RLM, ALM) are not among them."""

_MAX_MARKS = 32
"""Combining marks in a row. Ordering more takes time that grows with their square, and no script
writes them (the Stream-Safe Text Format of Unicode allows 30)."""


def nfc(text: str) -> str:
    """The text in NFC; itself where it has more than 32 combining marks in a row."""
    if text.isascii() or is_normalized("NFC", text):
        return text
    for marked, run in groupby(text, lambda char: combining(char) > 0):
        if marked and sum(1 for _ in run) > _MAX_MARKS:
            return text
    return normalize("NFC", text)
