from __future__ import annotations

import pytest

from models.wording import plural


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 clusters"), (1, "1 cluster"), (2, "2 clusters")]
)
def test_plural(count: int, expected: str) -> None:
    assert plural(count, "cluster") == expected


def test_an_irregular_plural() -> None:
    assert [plural(n, "query", "queries") for n in (1, 2)] == ["1 query", "2 queries"]
