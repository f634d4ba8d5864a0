from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from cli.common import plural, short_time, table


def test_table() -> None:
    text = table(["n", "name", "empty"], [["1", "a", ""], ["20", "", ""]], right=[0])
    assert text.splitlines() == [" n  name", " 1  a", "20  -"]


def test_times_are_utc() -> None:
    zone = timezone(timedelta(hours=2))
    assert short_time(datetime(2026, 1, 1, 1, 2, 3, 999, zone)) == "2025-12-31 23:02:03"


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 clusters"), (1, "1 cluster"), (2, "2 clusters")]
)
def test_plural(count: int, expected: str) -> None:
    assert plural(count, "cluster") == expected


def test_an_irregular_plural() -> None:
    assert [plural(n, "query", "queries") for n in (1, 2)] == ["1 query", "2 queries"]
