"""Each row of docs/compatibility.md names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs/compatibility.md").read_text())


def test_there_are_rows() -> None:
    rows = [
        line
        for line in (ROOT / "docs/compatibility.md").read_text().splitlines()
        if line.startswith("| ") and "`tests/" in line
    ]
    assert len(rows) == len(NAMED) >= 50


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_the_test_of_a_row_exists(file: str, test: str) -> None:
    assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE)
