"""Maps: neighbors stay neighbors, colors go to the largest, the same seed draws the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.report.maps import COLORED, choose_rows, draw_map, lay_out, legend
from adapt.report.palette import COLORS, GRAY


def groups(count: int, each: int, dimensions: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around `count` directions, and which."""
    rng = np.random.default_rng(0)
    which = np.repeat(np.arange(count), each)
    features = rng.normal(size=(count, dimensions))[which] + 0.1 * rng.normal(
        size=(count * each, dimensions)
    )
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32), which


def test_what_is_alike_lies_together() -> None:
    features, which = groups(4, 15)
    places = lay_out(features, seed=0)
    assert places.shape == (60, 2)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (which[distance.argmin(1)] == which).all()


def test_a_seed_gives_one_map() -> None:
    features, _ = groups(3, 8)
    np.testing.assert_array_equal(lay_out(features, seed=1), lay_out(features, seed=1))


@pytest.mark.parametrize("count", [4, 5])
def test_few_crops_make_a_map(count: int) -> None:
    features, _ = groups(count, 1)
    assert np.isfinite(lay_out(features, seed=0)).all()


def test_of_fewer_it_makes_none() -> None:
    with pytest.raises(ValueError, match="at least 4 crops, not 3"):
        lay_out(groups(3, 1)[0], seed=0)


def test_embeddings_that_are_all_alike_lie_on_one_spot() -> None:
    places = lay_out(np.tile(np.eye(1, 8, dtype=np.float32), (12, 1)), seed=0)
    assert (places == 0).all()


@given(st.integers(0, 300), st.integers(1, 100), st.integers(0, 5))
def test_rows_are_some_of_all_in_order(count: int, most: int, seed: int) -> None:
    rows = choose_rows(count, most, seed)
    assert len(set(rows.tolist())) == len(rows) == min(count, most)
    assert list(rows) == sorted(rows)
    assert all(0 <= row < count for row in rows)


def test_legend_by_hand() -> None:
    codes = np.array([2, 2, 2, 0, 0, -1])
    key = legend("by camera", codes, ("a", "b", "c"), "others")
    assert [(e.name, e.color) for e in key.entries] == [
        ("c (3)", COLORS[0]),
        ("a (2)", COLORS[1]),
        ("others (1)", GRAY),
    ]
    assert key.codes == (2, 0, -1)


def test_the_largest_get_colors_and_no_two_look_the_same() -> None:
    codes = np.repeat(np.arange(20), np.arange(20, 0, -1))
    key = legend("t", codes, [f"c{i}" for i in range(20)], "others")
    assert key.codes == (*range(COLORED), -1)
    assert len({(e.color, e.sign) for e in key.entries}) == COLORED + 1
    assert key.entries[-1].name == f"others ({sum(range(1, 9))})"


def test_points_are_drawn_where_they_lie_in_their_color() -> None:
    """One crop of each camera in three corners, seen from the picture's quarters."""
    places = np.array([[0, 0], [1, 1], [1, 0]], np.float32)
    codes = np.array([0, 1, -1])
    key = legend("t", codes, ("a", "b"), "others")
    picture = cv2.imdecode(
        np.frombuffer(draw_map(places, codes, key), np.uint8), cv2.IMREAD_UNCHANGED
    )
    height, width = picture.shape[:2]
    for (row, column), color in {
        (1, 0): COLORS[0],
        (0, 1): COLORS[1],
        (1, 1): GRAY,
    }.items():
        quarter = picture[row * height // 2 :, column * width // 2 :][: height // 2, : width // 2]
        inked = quarter[quarter[:, :, 3] == 255]
        assert len(inked)
        bgr = [int(color[i : i + 2], 16) for i in (5, 3, 1)]
        np.testing.assert_array_equal(np.unique(inked[:, :3], axis=0), [bgr])
    assert picture[5, 5, 3] == 0, "no ground"


def test_the_same_places_give_the_same_file() -> None:
    places = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    codes = np.arange(30) % 3
    key = legend("t", codes, "abc", "others")
    assert draw_map(places, codes, key) == draw_map(places, codes, key)
