"""Track retrieval: by hand, properties, a slow reference, pinned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.evaluation.proxies.sightings import Sightings
from adapt.evaluation.proxies.tracks import MIN_SECONDS, track_retrieval
from tests.support.numbered_sites import people, sightings, unit


def at(*degrees: float) -> NDArray[np.float32]:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_by_hand() -> None:
    # track 1 at 0, 5 and 40 degrees, track 2, seen beside it, at 20 and 30
    feature = at(0, 5, 40, 20, 30)
    of = sightings([0] * 5, tracks=[1, 1, 1, 2, 2], times=[0, 1, 9, 2, 8])
    found = track_retrieval(feature, of)
    assert found is not None
    assert found.row is not None
    assert found.part is not None
    part = dict(zip(found.row.tolist(), found.part.tolist(), strict=True))
    # 0 -> 2, 40 degrees away: 20 and 30 are nearer, rank 3. 1 -> 2, 35 away: 15 and 25, rank 3.
    # 2 -> 0, 40 away: 20 and 10, rank 3. 3 -> 4, 10 away: 0, 5, 40 are 20, 15, 20 away, rank 1.
    # 4 -> 3, 10 away: 40 is 10 away, a tie, which counts against it: rank 2.
    assert part == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3, 3: 1, 4: 1 / 2})
    assert found.value == pytest.approx((3 / 3 + 1 + 1 / 2) / 5)


def test_what_is_unknown_does_not_count() -> None:
    """The same person on another track may look alike: in another camera, or at another time."""
    feature = at(0, 10, 90, 90, 1, 1)
    tracks, times = [1, 1, 2, 2, 3, 3], [0, 5, 0, 5]
    beside = sightings([0] * 6, tracks, [*times, 0, 5])
    later = sightings([0] * 6, tracks, [*times, 50, 55])
    elsewhere = sightings([0, 0, 0, 0, 1, 1], tracks, [*times, 0, 5])
    worse, one, other = (track_retrieval(feature, of) for of in (beside, later, elsewhere))
    assert worse is not None
    assert one is not None
    assert other is not None
    assert worse.value < 1
    assert (one.value, other.value) == (1, 1)


def test_crops_close_in_time_are_no_queries() -> None:
    close = MIN_SECONDS / 2
    of = sightings([0] * 4, tracks=[1, 1, 2, 2], times=[0, close, 0, 10])
    found = track_retrieval(at(0, 1, 50, 51), of)
    assert found is not None
    assert found.row is not None
    assert found.row.tolist() == [2, 3]


@pytest.mark.parametrize(
    "of",
    [
        sightings([0] * 4),
        sightings([0] * 4, tracks=[1, 1, 2, 2]),
        sightings([0] * 4, times=[0, 9, 0, 9]),
        sightings([0, 0, 1, 1], tracks=[1, 1, 2, 2], times=[0, 9, 0, 9]),
        # tracks that touch: the tracker may have gone on with the same person
        sightings([0] * 4, tracks=[1, 1, 2, 2], times=[0, 9, 9, 18]),
        sightings([0] * 4, tracks=[1, 1, 1, 1], times=[0, 9, 9, 18]),
    ],
    ids=["nothing", "no times", "no tracks", "two cameras", "one after the other", "one track"],
)
def test_no_usable_tracks(of: Sightings) -> None:
    assert track_retrieval(at(0, 1, 50, 51), of) is None


def slow(feature: NDArray[np.float32], of: Sightings) -> list[float]:
    """One crop at a time: all pairs of crops are looked at."""
    parts = []
    usable = [i for i in range(len(of)) if of.tracks[i] >= 0 and np.isfinite(of.times[i])]

    def span(track: int) -> tuple[float, float]:
        times = [of.times[i] for i in usable if of.tracks[i] == track]
        return min(times), max(times)

    for i in usable:
        own = [j for j in usable if of.tracks[j] == of.tracks[i]]
        gap = max(abs(of.times[j] - of.times[i]) for j in own)
        if gap < MIN_SECONDS:
            continue
        start, end = span(of.tracks[i])
        others = []
        for j in usable:
            first, last = span(of.tracks[j])
            beside = min(last, end) > max(first, start) and of.cameras[j] == of.cameras[i]
            if of.tracks[j] != of.tracks[i] and beside:
                others.append(j)
        if not others:
            continue
        match = next(j for j in own if abs(of.times[j] - of.times[i]) == gap)
        near = feature[i] @ feature[match] - 1e-6
        parts.append(1 / (1 + sum(feature[i] @ feature[j] >= near for j in others)))
    return parts


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), crops=st.integers(4, 40))
def test_equals_the_reference(seed: int, crops: int) -> None:
    rng = np.random.default_rng(seed)
    cameras = rng.integers(0, 2, crops)
    tracks = np.where(rng.random(crops) < 0.2, -1, cameras * 10 + rng.integers(0, 5, crops))
    times = np.where(rng.random(crops) < 0.1, np.nan, rng.uniform(0, 0.4 * crops, crops))
    of = sightings(cameras.tolist(), tracks.tolist(), times)
    feature = unit(rng.normal(size=(crops, 5)))
    found, expected = track_retrieval(feature, of), slow(feature, of)
    if found is None:
        assert not expected
        return
    assert found.part is not None
    assert sorted(found.part.tolist()) == pytest.approx(sorted(expected))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_all_alike_is_the_worst_and_noise_lowers(seed: int) -> None:
    feature, of = people(noise=0.3, shift=0, seed=seed)
    blurred, _ = people(noise=3.0, shift=0, seed=seed)
    good, bad, alike = (
        track_retrieval(each, of) for each in (feature, blurred, np.tile(feature[:1], (len(of), 1)))
    )
    assert good is not None
    assert bad is not None
    assert alike is not None
    assert 1 >= good.value > bad.value > alike.value > 0
    assert good.row is not None
    assert bad.row is not None
    assert good.row.tolist() == bad.row.tolist(), "queries do not depend on the model"


def test_pinned() -> None:
    found = track_retrieval(*people(noise=1.5, shift=0.5))
    assert found is not None
    assert found.value == pytest.approx(0.8073, abs=1e-3)


@pytest.mark.parametrize("block_entries", [1, 12])
def test_blocks_do_not_show(block_entries: int) -> None:
    feature, of = people(noise=1.5, shift=0.5)
    whole = track_retrieval(feature, of)
    parts = track_retrieval(feature, of, block_entries=block_entries)
    assert whole is not None
    assert parts is not None
    assert whole.part is not None
    assert parts.part is not None
    assert parts.part.tolist() == whole.part.tolist()


def test_lengths_have_to_fit() -> None:
    with pytest.raises(ValueError, match="do not fit 3 crops"):
        track_retrieval(at(0, 1), sightings([0, 1, 1]))
