"""The measurement of large sites, with small ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pressure.large_sites import measure


async def test_each_row_has_the_waits_of_another_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await measure(tmp_path, deleted=600, moved=40)
    rows = capsys.readouterr().out.splitlines()
    names = [row.split("  ")[0] for row in rows]
    assert names == [
        "nothing else",
        "enroll half of 600 again",
        "delete a site of 600",
        "second model of a site of 40",
        "third model, those of the first go",
    ]
    assert all(int(row.split("calls")[1].split()[0]) > 0 for row in rows)
