from __future__ import annotations

import pytest

from models.wording import one_line, plural, reason_of


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 clusters"), (1, "1 cluster"), (2, "2 clusters")]
)
def test_plural(count: int, expected: str) -> None:
    assert plural(count, "cluster") == expected


def test_an_irregular_plural() -> None:
    assert [plural(n, "query", "queries") for n in (1, 2)] == ["1 query", "2 queries"]


def test_control_characters_are_spelled_out() -> None:
    assert one_line("a\nb\r\tc\x1b[31m\u2028é") == r"a\nb\r\tc\x1b[31m\u2028é"


def test_characters_that_nobody_sees_are_spelled_out() -> None:
    assert one_line("Ha\u200bll \ufeffa\u202e\u00ad") == r"Ha\u200bll \ufeffa\u202e\xad"
    joined = "\u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f4bb"  # scripts and emoji need joiners
    assert one_line(joined) == joined


def test_the_reason_of_an_error_is_without_pythons_words() -> None:
    assert reason_of(FileNotFoundError(2, "No such file or directory", "x")) == (
        "No such file or directory"
    )
    assert reason_of(OSError("short read")) == "short read"
    assert reason_of(EOFError()) == "EOFError"
