"""Saved figures: what was measured beside each other stays so."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from benchmarks.graph.scale import print_rivals, with_earlier_rivals


def cost(seconds: float) -> dict[str, object]:
    stages = ("neighbors", "encoding", "jaccard", "dbscan")
    return {"seconds": dict.fromkeys(stages, seconds), "extra": dict.fromkeys(stages, 0)}


def test_rivals_of_a_saved_row_stay_with_our_runs_beside_theirs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rival = {"costs": [cost(30.0) | {"differ": 0}] * 2, "problem": None}
    saved = {"images": 100, "ours": [cost(1.0)] * 2, "rivals": {"dense": rival}}
    other = {"images": 200, "ours": [cost(9.0)], "rivals": {"public": rival}}
    row = {"images": 100, "ours": [cost(5.0)], "rivals": {}}
    kept = with_earlier_rivals(row, [saved, other])
    again = with_earlier_rivals(row, [kept])
    assert again == kept
    assert list(kept["rivals"]) == ["dense"]
    assert kept["ours"] == row["ours"]
    print_rivals([kept])
    assert "| 15.00 (15.00 - 15.00) | 20.00 (20.00 - 20.00) |" in capsys.readouterr().out
    measured_again = row | {"rivals": {"dense": rival}}
    assert with_earlier_rivals(measured_again, [saved]) == measured_again
