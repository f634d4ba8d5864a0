"""Records refuse what would be misread later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adapt.errors import DataError
from adapt.types import UNTRACKED, CropSet, FeatureTable, RoundOf, Sample


def crop(key: str, camera: int, track: int = UNTRACKED, time: float | None = None) -> Sample:
    return Sample(Path(key), key, camera, track=track, time=time)


def test_tracks_and_times_as_arrays() -> None:
    crops = CropSet(Path(), (crop("a", 0, 3, 1.5), crop("b", 1), crop("c", 0, 3)), ("x", "y"))
    assert (crops.tracks.dtype, crops.times.dtype) == (np.int64, np.float64)
    assert crops.tracks.tolist() == [3, UNTRACKED, 3]
    np.testing.assert_array_equal(crops.times, [1.5, np.nan, np.nan])
    nothing = CropSet(Path(), (), ())
    assert nothing.tracks.shape == nothing.times.shape == (0,)


def test_a_track_is_of_one_camera() -> None:
    CropSet(Path(), (crop("a", 0), crop("b", 1)), ("x", "y"))
    with pytest.raises(DataError, match="a track is of two cameras"):
        CropSet(Path(), (crop("a", 0, 3), crop("b", 1, 3)), ("x", "y"))


def test_keys_are_unique() -> None:
    with pytest.raises(DataError, match="share one key"):
        CropSet(Path(), (crop("a", 0), crop("a", 1)), ("x", "y"))


@given(
    st.lists(hnp.arrays(np.float32, (5, 3), elements=st.floats(-1, 1, width=32)), min_size=1),
)
def test_the_mean_of_tables_is_numpys_and_lies_where_it_is_wanted(tables: list[np.ndarray]) -> None:
    places: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        places.append(np.full(shape, np.nan, np.float32))
        return places[-1]

    mean = FeatureTable(tuple(tables), np.zeros(5, np.int64), allocate).mean()
    assert mean is places[0]
    np.testing.assert_allclose(mean, np.mean(tables, axis=0), atol=1e-6)


def test_rounds_are_counted_from_0_below_their_total() -> None:
    for number in (0, 2):
        assert RoundOf(number, 3).number == number
    for number in (-1, 3):
        with pytest.raises(ValueError, match=f"round {number} of 3"):
            RoundOf(number, 3)
