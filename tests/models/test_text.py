from __future__ import annotations

import sys
from unicodedata import decomposition, is_normalized, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import MAX_EXPANSION, nfc


@pytest.mark.parametrize("text", ["Café", "Über", "Ρέα", "Йод", "がぎ", "한국", "Åre", "क़"])
def test_every_spelling_becomes_one(text: str) -> None:
    assert nfc(normalize("NFD", text)) == nfc(normalize("NFC", text)) == nfc(text)
    assert is_normalized("NFC", nfc(text))


@pytest.mark.parametrize(
    "text", ["", "c1", "CAFÉ", "ﬁ", "c①", "\u200bc", "a\u200db", " c ", "\udc80", "👩\u200d💻"]
)
def test_case_width_and_unseen_characters_are_kept(text: str) -> None:
    assert nfc(text) == text


@given(st.text())
def test_nfc_is_idempotent(text: str) -> None:
    assert nfc(nfc(text)) == nfc(text)
    assert nfc(normalize("NFD", text)) == nfc(text)


def test_no_end_of_marks_takes_no_time_that_grows_with_its_square() -> None:
    """Ordering these marks takes Python half an hour."""
    marks = "a" + "\u0301" * 500_000 + "\u0323" * 500_000
    assert nfc(marks) == marks
    assert nfc("a" + "\u0301" * 16 + "\u0323" * 16) == "\u1ea1" + "\u0323" * 15 + "\u0301" * 16


def test_the_longest_spelling() -> None:
    characters = filter(decomposition, map(chr, range(sys.maxunicode + 1)))
    longest = max(len(normalize("NFD", each)) for each in characters if is_normalized("NFC", each))
    assert longest == MAX_EXPANSION
