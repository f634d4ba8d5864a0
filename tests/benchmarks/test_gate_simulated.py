"""Tracks made of labels: by hand, properties, a slow reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.types import CropSet, Sample
from benchmarks.gate.simulated import AT_ONCE, PAUSE, SECONDS, simulated_tracks


def crops(rows: list[tuple[int, int]]) -> CropSet:
    """(camera, person) of each crop; keys in order."""
    samples = tuple(
        Sample(Path(f"{n}"), f"{n:04d}", camera, person) for n, (camera, person) in enumerate(rows)
    )
    return CropSet(Path(), samples, ("c1", "c2", "c3"))


def test_by_hand() -> None:
    # one camera sees 7 and 8 at once, two crops each; the other sees 7 once; the last is nobody
    found = simulated_tracks(crops([(0, 7), (0, 8), (0, 7), (1, 7), (0, 8), (0, -1)]))
    assert found.tracks.tolist() == [1, 2, 1, 3, 2, -1]
    assert found.times[:5].tolist() == [0, 0, SECONDS, 0, SECONDS]
    assert np.isnan(found.times[5])
    assert found.cameras.tolist() == [0, 0, 0, 1, 0, 0]


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60))
def test_equals_the_reference(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (int(c), int(p))
        for c, p in zip(rng.integers(0, 3, count), rng.integers(-1, 9, count), strict=True)
    ]
    found = simulated_tracks(crops(rows), seed=seed)
    again = simulated_tracks(crops(rows), seed=seed)
    assert found.tracks.tolist() == again.tracks.tolist()
    assert np.array_equal(found.times, again.times, equal_nan=True)
    starts: dict[int, dict[tuple[int, int], float]] = {}
    for n, (camera, person) in enumerate(rows):
        if person < 0:
            assert found.tracks[n] == -1
            continue
        for m in range(n):
            same = rows[m] == rows[n]
            assert same == (found.tracks[m] == found.tracks[n])
        before = rows[:n].count((camera, person))
        start = found.times[n] - before * SECONDS
        assert start == starts.setdefault(camera, {}).setdefault((camera, person), start)
    for seen in starts.values():
        times = np.array(list(seen.values()))
        shown, together = np.unique(times, return_counts=True)
        assert shown.tolist() == [PAUSE * n for n in range(len(shown))]
        assert sorted(together.tolist(), reverse=True)[:-1] == [AT_ONCE] * (len(shown) - 1)


def test_people_who_meet_depend_on_the_seed() -> None:
    rows = [(0, person) for person in range(9)]
    one, other = (simulated_tracks(crops(rows), seed=n).times.tolist() for n in (0, 1))
    assert one != other
    assert sorted(one) == pytest.approx(sorted(other))
