"""Near-duplicates of a track go, and nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adapt.config import Thinning
from adapt.data.decoding.decode import DecodedCrops
from adapt.data.decoding.thinning import THUMBNAIL, thin_crops, thin_tracks
from adapt.types import UNTRACKED, CropSet, Sample


def flat(*grays: int) -> NDArray[np.uint8]:
    """(N, 32, 16, 3) pictures of one gray each: d is the difference of the grays."""
    return np.repeat(np.array(grays, np.uint8), 32 * 16 * 3).reshape(-1, 32, 16, 3)


def kept(
    grays: NDArray[np.uint8],
    tracks: list[int],
    times: list[float],
    difference: float = 10,
    per_track: int = 0,
) -> list[int]:
    found = thin_tracks(
        grays,
        np.array(tracks, np.int64),
        np.array(times, np.float64),
        difference=difference,
        per_track=per_track,
    )
    return found.rows.tolist()


def test_by_hand() -> None:
    """100 stays, 109 is like it, 110 differs by 10 and stays, 118 is like 110."""
    assert kept(flat(100, 109, 110, 118), [0] * 4, [1, 2, 3, 4]) == [0, 2]
    assert kept(flat(100, 109, 110, 118), [0] * 4, [4, 3, 2, 1]) == [0, 3], "118, then 100"


def test_an_earlier_kept_crop_counts_as_much_as_the_last() -> None:
    assert kept(flat(100, 150, 101), [0] * 3, [1, 2, 3]) == [0, 1]


def test_tracks_and_crops_without_one_stay_apart() -> None:
    grays = flat(100, 100, 100, 100, 100)
    assert kept(grays, [0, 1, UNTRACKED, UNTRACKED, 0], [1] * 5) == [0, 1, 2, 3]


def test_unknown_times_come_last() -> None:
    assert kept(flat(100, 105), [0, 0], [np.nan, 5]) == [1]


def test_the_cap_spreads_over_the_track() -> None:
    grays = flat(*range(0, 250, 25))
    times = [float(t) for t in range(10)]
    assert kept(grays, [0] * 10, times, per_track=4) == [0, 3, 6, 9]
    assert kept(grays, [0] * 10, times, per_track=1) == [0]
    assert kept(grays, [0] * 10, times, per_track=10) == list(range(10))


def test_off() -> None:
    assert kept(flat(7, 7, 7), [0] * 3, [1, 2, 3], difference=0) == [0, 1, 2]
    assert kept(np.empty((0, 32, 16, 3), np.uint8), [], []) == []


def slowly(
    images: NDArray[np.uint8], tracks: list[int], times: list[float], difference: float, most: int
) -> list[int]:
    """The rule in words, crop by crop."""
    height, width = THUMBNAIL
    small = [
        cv2.cvtColor(i, cv2.COLOR_RGB2GRAY)
        .astype(float)
        .reshape(height, len(i) // height, width, i.shape[1] // width)
        .mean(axis=(1, 3))
        for i in images
    ]
    result = [i for i, track in enumerate(tracks) if track == UNTRACKED]
    for track in set(tracks) - {UNTRACKED}:
        stay: list[int] = []
        for i in sorted((i for i, t in enumerate(tracks) if t == track), key=lambda i: times[i]):
            if all(abs(small[i] - small[j]).mean() >= difference for j in stay):
                stay.append(i)
        if most and len(stay) > most:
            stay = [stay[k * (len(stay) - 1) // max(most - 1, 1)] for k in range(most)]
        result += stay
    return sorted(result)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    tracks=st.lists(st.integers(-1, 2), max_size=12),
    difference=st.sampled_from([0.0, 3.0, 10.0, 40.0]),
    most=st.integers(0, 4),
)
def test_as_the_rule_says(seed: int, tracks: list[int], difference: float, most: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (len(tracks), 1, 1, 3))
    images = np.clip(base + rng.normal(0, 5, (len(tracks), 32, 16, 3)), 0, 255).astype(np.uint8)
    times = [float(t) for t in rng.integers(0, 4, len(tracks))]
    found = kept(images, tracks, times, difference, most)
    assert found == slowly(images, tracks, times, difference, most)
    renamed = [t if t == UNTRACKED else 90 - t for t in tracks]
    assert kept(images, renamed, times, difference, most) == found, "names decide nothing"


def test_pinned() -> None:
    rng = np.random.default_rng(5)
    images = np.clip(100 + 40 * rng.normal(size=(12, 1, 1, 3)) + np.zeros((12, 32, 16, 3)), 0, 255)
    rows = kept(images.astype(np.uint8), [0] * 6 + [1] * 6, [float(n) for n in range(12)], 20, 3)
    assert rows == [0, 1, 2, 6, 7]


def decoded(grays: NDArray[np.uint8], tracks: list[int]) -> DecodedCrops:
    samples = tuple(
        Sample(Path(f"{n}.png"), f"{n}.png", 0, track=track, time=float(n))
        for n, track in enumerate(tracks)
    )
    return DecodedCrops(CropSet(Path(), samples, ("a",), fingerprint="f"), grays)


def test_a_set_keeps_pixels_with_their_crops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = decoded(flat(100, 101, 150, 200, 201), [0, 0, 0, 1, UNTRACKED])
    thinned = thin_crops(data, difference=10, per_track=1)
    assert [s.key for s in thinned.crops.samples] == ["0.png", "3.png", "4.png"]
    assert thinned.images[:, 0, 0, 0].tolist() == [100, 200, 201]
    assert (thinned.crops.thinned, thinned.crops.fingerprint) == (2, "f")
    assert (
        "near-duplicates within their track: 1; beyond 1 crop of a track: 1; used: 3 of 5"
        in caplog.text
    )


def test_a_set_without_tracks_is_left_as_it_is() -> None:
    data = decoded(flat(100, 100), [UNTRACKED, UNTRACKED])
    assert thin_crops(data, difference=10, per_track=1) is data


def test_default_keeps_other_views_and_drops_the_next_frame() -> None:
    """A shift by half a per cent of the height is the same picture; another half is not."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (12, 6, 3)).astype(np.uint8), (128, 256))
    other = cv2.resize(rng.integers(0, 256, (12, 6, 3)).astype(np.uint8), (128, 256))
    images = np.stack([picture, np.roll(picture, 1, axis=0), other]).astype(np.uint8)
    default = Thinning()
    assert kept(images, [0] * 3, [1, 2, 3], default.difference, default.per_track) == [0, 2]
