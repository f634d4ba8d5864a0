"""Camera bias: by hand, at both ends, by chance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from adapt.clustering.graph.camera_bias import camera_bias, camera_bias_of_each


def lists(rank: NDArray[np.integer] | list[list[int]]) -> NDArray[np.int32]:
    return np.asarray(rank, np.int32)


def test_by_hand() -> None:
    near = lists([[0, 1, 2], [1, 0, 3], [2, 3, 0], [3, 2, 1]])
    # shares 1/2, 1/2, 0, 0 of neighbors in the own camera,
    # and by chance 1/3: one of three others
    assert camera_bias(near, np.array([4, 4, 7, 7])) == pytest.approx(1 / 2 - 1 / 3)
    assert camera_bias(near, np.array([0, 1, 1, 0])) == pytest.approx(-1 / 3)
    # cameras of 3 and 1: shares 1, 1/2, 1/2, 0; by chance 2/3, 2/3, 2/3, 0
    assert camera_bias(near, np.array([0, 0, 0, 1])) == pytest.approx((1 + 0.5 + 0.5 - 2) / 4)


def test_only_neighbors_of_the_own_camera() -> None:
    near = lists([[0, 1], [1, 0], [2, 3], [3, 2]])
    assert camera_bias(near, np.array([0, 0, 1, 1])) == pytest.approx(1 - 1 / 3)


def test_chance_is_zero() -> None:
    rng = np.random.default_rng(0)
    rank = np.stack(
        [np.r_[i, rng.permutation(np.delete(np.arange(600), i))[:10]] for i in range(600)]
    )
    cameras = rng.choice(5, 600, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    assert abs(camera_bias(lists(rank), cameras)) < 0.02


def test_one_camera_or_no_neighbors() -> None:
    assert camera_bias(lists([[0, 1], [1, 0]]), np.zeros(2, np.int64)) == 0
    assert camera_bias(lists([[0]]), np.zeros(1, np.int64)) == 0


def test_cameras_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 2 images"):
        camera_bias(lists([[0, 1], [1, 0]]), np.zeros(3, np.int64))


def test_each_with_images_left_out_by_hand() -> None:
    # 0 and 1 are one track: their nearest are others, one of two for each of them
    near = lists([[0, 2], [1, 2], [2, 1], [3, 2]])
    cameras = np.array([4, 4, 7, 7])
    found = camera_bias_of_each(near, cameras, np.array([2, 2, 1, 1]))
    assert found == pytest.approx([0 - 0, 0 - 0, 0 - 1 / 3, 1 - 1 / 3])
    plain = camera_bias_of_each(near, cameras)
    assert plain == pytest.approx([-1 / 3, -1 / 3, -1 / 3, 2 / 3])
    assert camera_bias(near, cameras) == pytest.approx(plain.mean())


def test_left_out_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 2 images"):
        camera_bias_of_each(lists([[0, 1], [1, 0]]), np.zeros(2, np.int64), np.ones(3, np.int64))
