from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.gallery.vectors import Vectors


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.gallery.vectors.PART", 8)


def drawn(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)


def filled(rows: int) -> tuple[Vectors, NDArray[np.float32]]:
    vectors, truth = Vectors(4), drawn(rows)
    vectors.resize(rows)
    vectors.write(np.arange(rows), truth)
    return vectors, truth


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 16, 50])
def test_any_size_after_any_other(rows: int) -> None:
    for before in (0, 5, 8, 20, 64):
        vectors, truth = filled(before)
        vectors.resize(rows)
        assert len(vectors) == rows
        expected = np.zeros((rows, 4), np.float32)
        expected[:before] = truth[:rows]
        np.testing.assert_array_equal(vectors.read(np.arange(rows)), expected)
        vectors.give_back()
        np.testing.assert_array_equal(vectors.read(np.arange(rows)), expected)


def test_no_part_has_more_rows_than_may_be_copied_at_a_time() -> None:
    vectors = Vectors(4)
    for rows in (3, 8, 11, 30):
        vectors.resize(rows)
    assert [part.ntotal for part in vectors._parts] == [8, 8, 8, 6]
    first = vectors._parts[0]
    vectors.resize(90)
    vectors.give_back()
    assert vectors._parts[0] is first
    vectors.resize(16)
    assert len(vectors._parts) == 2, "the memory of the others is given back"


def test_of_equal_rows_the_last_vector_counts() -> None:
    vectors, truth = filled(20)
    new = drawn(4)
    vectors.write(np.array([19, 3, 19, 3]), new)
    truth[[19, 3]] = new[2:]
    np.testing.assert_array_equal(vectors.read(np.array([3, 19, 0])), truth[[3, 19, 0]])


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_the_nearest_are_the_largest_products_of_allowed_rows(share: float) -> None:
    vectors, truth = filled(53)
    queries = drawn(3)
    allowed = np.random.default_rng(1).random(53) <= share
    for count in {1, 2, int(allowed.sum())}:
        products, rows = vectors.nearest(queries, count, allowed)
        expected = np.where(allowed, queries @ truth.T, -np.inf)
        order = np.argsort(-expected, axis=1)[:, :count]
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_allclose(products, np.take_along_axis(expected, order, axis=1), rtol=1e-5)
