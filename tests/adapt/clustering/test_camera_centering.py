"""Camera centering: by hand, as properties, against a reference, pinned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adapt.clustering.camera_centering import CENTERING_ROWS, center_cameras
from adapt.errors import NonFiniteFeaturesError


def reference(features: NDArray[np.float32], cameras: NDArray[np.int64]) -> NDArray[np.float64]:
    rows = []
    for feature, camera in zip(features, cameras, strict=True):
        total, count = np.zeros(features.shape[1]), 0
        for other, its in zip(features, cameras, strict=True):
            if its == camera:
                total, count = total + other, count + 1
        rest = feature - total / count
        rows.append(rest / np.sqrt((rest**2).sum()))
    return np.array(rows)


def unit(seed: int, rows: int = 12) -> NDArray[np.float32]:
    features = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features


def test_by_hand() -> None:
    features = np.array([[3, 4], [3, 0], [0, 2], [2, 2], [4, 2]], np.float32)
    cameras = np.array([5, 5, 9, 9, 9])
    # means (3, 2) and (2, 2); the fourth image equals its mean and keeps its own direction
    half = 0.5**0.5
    expected = [[0, 1], [0, -1], [-1, 0], [half, half], [1, 0]]
    np.testing.assert_allclose(center_cameras(features, cameras), expected, atol=1e-7)


@pytest.mark.parametrize(("apart", "kept"), [(1e-4, True), (1e-7, False)])
def test_a_difference_from_the_mean_keeps_its_direction_unless_it_is_rounding(
    apart: float, kept: bool
) -> None:
    features = np.array([[1, -apart], [1, apart]])  # mean (1, 0)
    expected = [[0, -1], [0, 1]] if kept else [[1, 0], [1, 0]]
    found = center_cameras(features, np.zeros(2, np.int64))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_result_is_allocated_by_the_caller() -> None:
    given = []

    def allocate(shape: tuple[int, ...]) -> NDArray[np.float32]:
        given.append(np.zeros(shape, np.float32))
        return given[-1]

    features, cameras = unit(4), np.arange(12) % 3
    found = center_cameras(features, cameras, allocate)
    assert found is given[0]
    np.testing.assert_array_equal(found, center_cameras(features, cameras))


def test_equals_the_reference() -> None:
    features, cameras = unit(0), np.arange(12) % 3
    found = center_cameras(features, cameras)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference(features, cameras), atol=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_offset_per_camera_is_taken_away(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, cameras = unit(seed), np.arange(12) % 3
    offset = rng.normal(size=(3, 4)).astype(np.float32)
    shifted = features + offset[cameras]
    np.testing.assert_allclose(
        center_cameras(shifted, cameras), center_cameras(features, cameras), atol=1e-4
    )


def test_pinned_value() -> None:
    features = np.sin(np.arange(12, dtype=np.float32)).reshape(6, 2)
    found = center_cameras(features, np.array([0, 1, 0, 1, 0, 1]))
    np.testing.assert_allclose(found[:2], [[-0.103734, 0.994605], [0.973122, 0.230292]], atol=1e-6)


def test_a_camera_with_one_image_is_centered_on_all() -> None:
    features, cameras = unit(1), np.array([0] * 11 + [1])
    found = center_cameras(features, cameras)
    expected = features[11] - features.mean(axis=0)
    np.testing.assert_allclose(found[11], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(found[:11], center_cameras(features[:11], cameras[:11]), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
def test_identical_images_keep_their_direction(rows: int) -> None:
    features = np.tile(np.array([[0.6, 0.8]], np.float32), (rows, 1))
    found = center_cameras(features, np.zeros(rows, np.int64))
    np.testing.assert_allclose(found, features, atol=1e-6)


def test_input_is_left_alone_and_may_be_empty() -> None:
    features = unit(2)
    before = features.copy()
    center_cameras(features, np.zeros(12, np.int64))
    np.testing.assert_array_equal(features, before)
    assert center_cameras(features[:0], np.zeros(0, np.int64)).shape == (0, 4)


def test_blocks_make_no_difference() -> None:
    features = unit(3, rows=2 * CENTERING_ROWS + 5)
    cameras = np.where(np.arange(len(features)) < CENTERING_ROWS + 2, 4, 1)
    means = np.array([features[cameras == c].mean(axis=0, dtype=np.float64) for c in (1, 4)])
    expected = features - means[(cameras == 4).astype(int)]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(center_cameras(features, cameras), expected, atol=1e-6)
    half = features.astype(np.float16)
    np.testing.assert_allclose(center_cameras(half, cameras), expected, atol=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e300])
def test_values_without_a_mean_are_refused(value: float) -> None:
    features = unit(0, rows=CENTERING_ROWS + 12).astype(np.float64)
    features[[CENTERING_ROWS + 3, CENTERING_ROWS + 7], 1] = value
    with pytest.raises(NonFiniteFeaturesError) as error:
        center_cameras(features, np.zeros(len(features), np.int64))
    assert (error.value.first_row, error.value.rows) == (CENTERING_ROWS + 3, 2)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        center_cameras(unit(0), np.zeros(3, np.int64))
