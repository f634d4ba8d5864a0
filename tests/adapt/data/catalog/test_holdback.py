"""Crops held back: the same for everybody, whole tracks, about the share asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.data.catalog.holdback import held_back, only_held_back, without_held_back
from adapt.errors import ConfigError, DataError
from adapt.types import CropSet, Sample

NOTHING = -1


def untracked(count: int) -> np.ndarray:
    return np.full(count, NOTHING)


def test_by_hand() -> None:
    keys = ["cam1/a.png", "cam1/b.png", "cam1/c.png"]
    draws = [int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) / 16**16 for key in keys]
    for share in (0.0, 0.3, 0.5, 0.9):
        assert held_back(keys, untracked(3), share).tolist() == [d < share for d in draws]
    # a track goes by its first key, whichever crop comes first
    together = held_back(keys[::-1], np.array([7, NOTHING, 7]), draws[0] + 1e-6)
    assert together.tolist()[::2] == [True, True]


def test_pinned() -> None:
    keys = [f"cam{i % 3}/{i:04d}.jpg" for i in range(20)]
    assert np.flatnonzero(held_back(keys, untracked(20), 0.3)).tolist() == PINNED


PINNED = [1, 2, 9, 10, 12, 14, 15, 17]


@pytest.mark.slow
@given(
    keys=st.lists(st.text(min_size=1), min_size=1, max_size=30, unique=True),
    tracks=st.data(),
    share=st.floats(0, 0.99),
    more=st.floats(0, 0.99),
)
def test_whole_tracks_and_larger_shares_hold_more(
    keys: list[str], tracks: st.DataObject, share: float, more: float
) -> None:
    codes = np.array([tracks.draw(st.integers(NOTHING, 4)) for _ in keys])
    held = held_back(keys, codes, share)
    for track in set(codes.tolist()) - {NOTHING}:
        assert len(set(held[codes == track].tolist())) == 1
    low, high = sorted((share, more))
    assert (held_back(keys, codes, low) <= held_back(keys, codes, high)).all()
    order = np.argsort(keys)
    mixed = held_back([keys[i] for i in order], codes[order] * 3 + 2 * (codes[order] < 0), share)
    assert (mixed == held[order]).all(), "order and numbering of tracks do not matter"


def test_about_the_share() -> None:
    held = held_back([f"{i}.png" for i in range(5000)], untracked(5000), 0.2)
    assert abs(held.mean() - 0.2) < 0.02


def crops(count: int) -> CropSet:
    samples = tuple(Sample(Path(f"{i}.png"), f"{i}.png", i % 2) for i in range(count))
    return CropSet(Path("site"), samples, ("a", "b"))


def test_the_two_parts_are_the_whole() -> None:
    whole = crops(50)
    learned, judged = without_held_back(whole, 0.3), only_held_back(whole, 0.3)
    assert len(learned) + len(judged) == 50
    assert {*learned.samples} | {*judged.samples} == {*whole.samples}
    assert learned.cameras == judged.cameras == whole.cameras
    assert without_held_back(whole, 0) == whole


def test_a_part_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="holds nothing back of 50 crops"):
        only_held_back(crops(50), 0)
    with pytest.raises(DataError, match="holds everything back of 1 crop;"):
        without_held_back(crops(1), 0.9999)


@pytest.mark.parametrize("share", [-0.1, 1.0, 20.0, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(ConfigError, match="share to hold back"):
        held_back(["a"], untracked(1), share)


def test_lengths_have_to_fit() -> None:
    with pytest.raises(ValueError, match="1 keys"):
        held_back(["a"], untracked(2), 0.5)
