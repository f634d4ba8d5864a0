"""Nearest neighbours: against a sort of all distances, with ties and copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.graph import neighbours
from adapt.graph.neighbours import nearest_neighbours


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40))
def test_equals_a_stable_sort(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    # signs of +-1/4 in 16 dimensions: unit vectors whose distances are exact, with many ties
    unit = (rng.integers(0, 2, (40, 16)) / 2 - 0.25).astype(np.float32)
    squared = ((unit[:, None] - unit[None]) ** 2).sum(axis=2)
    farthest = squared.max(axis=1)
    np.fill_diagonal(squared, -1)
    expected = np.argsort(squared, axis=1, kind="stable")[:, :count]
    rank, found_farthest = nearest_neighbours(unit, count)
    np.testing.assert_array_equal(rank, expected)
    np.testing.assert_allclose(found_farthest, farthest)


def test_an_image_comes_before_its_copies() -> None:
    for seed in range(5):  # some lengths are not 1 after rounding, and 2 - 2 u.u is not 0
        single = np.random.default_rng(seed).normal(size=(1, 67)).astype(np.float32)
        unit = np.tile(single / np.linalg.norm(single), (7, 1))
        rank, farthest = nearest_neighbours(unit, 3)
        assert rank.tolist() == [[0, 1, 2], [1, 0, 2], *([i, 0, 1] for i in range(2, 7))]
        assert (farthest == 0).all()


def test_more_images_than_one_block_holds() -> None:
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(2500, 4)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert neighbours.BLOCK_ENTRIES < 2500**2
    rank, farthest = nearest_neighbours(unit, 5)
    for i in (0, 1599, 1600, 2499):
        squared = ((unit.astype(np.float64) - unit[i]) ** 2).sum(axis=1)
        np.testing.assert_array_equal(rank[i], np.argsort(squared)[:5])
        assert farthest[i] == pytest.approx(squared.max(), rel=1e-5)
