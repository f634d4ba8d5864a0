"""Groups of crops, and what cannot be a site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import DataError
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings
from adapt.types import CropSet, Sample
from tests.support.numbered_sites import sightings


def test_a_group_is_a_track_or_a_lone_crop() -> None:
    found = sightings([0, 0, 1, 0, 1], tracks=[4, -1, 2, 4, -1])
    one, two, three, again, five = found.groups.tolist()
    assert one == again
    assert sorted({one, two, three, five}) == [0, 1, 2, 3]
    assert (found.group_count, found.camera_count) == (4, 2)


def test_no_crops() -> None:
    assert (sightings([]).group_count, sightings([]).camera_count) == (0, 0)


def test_of_a_set() -> None:
    samples = (
        Sample(Path("a"), "a", 0, track=7, time=12.5),
        Sample(Path("b"), "b", 1),
    )
    found = Sightings.of(CropSet(Path("site"), samples, ("x", "y")))
    assert found.cameras.tolist() == [0, 1]
    assert found.tracks.tolist() == [7, -1]
    assert found.times[0] == 12.5
    assert np.isnan(found.times[1])


def test_a_track_in_two_cameras_is_refused() -> None:
    with pytest.raises(DataError, match=r"tracks in several cameras: 1 \(first: track 3\)"):
        sightings([0, 1, 0], tracks=[3, 3, 4])


def test_lengths_have_to_fit() -> None:
    with pytest.raises(ValueError, match="same crops"):
        Sightings(np.zeros(2, np.int64), np.zeros(3, np.int64), np.zeros(2))
    with pytest.raises(ValueError, match="must be"):
        ProxyValue.mean_of(np.zeros(2), np.arange(3))
    with pytest.raises(ValueError, match="must be"):
        ProxyValue.mean_of(np.zeros(0), np.arange(0))
