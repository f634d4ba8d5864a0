"""Nearest neighbors: against a sort of all distances, with ties, copies, blocks and bad input."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adapt.clustering.graph.device import DeviceSearch
from adapt.clustering.graph.neighbors import (
    FaissSearch,
    Search,
    UnitRows,
    nearest_neighbors,
)
from adapt.errors import DataError, NonFiniteFeaturesError

SEARCHES: list[Search] = [FaissSearch(), DeviceSearch(torch.device("cpu"))]


def signs(seed: int, images: int) -> NDArray[np.float32]:
    """+-1/4 in 16 dimensions: unit vectors whose distances are exact, with many ties and copies."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 2, (images, 16)) / 2 - 0.25).astype(np.float32)


def normal(seed: int, images: int, dimensions: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(images, dimensions)).astype(np.float32)


def sorted_all(features: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N, N) everything in order of (distance, index), the image itself first; its distances."""
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    squared = np.stack([((unit - row) ** 2).sum(axis=1) for row in unit])
    first = squared.copy()
    np.fill_diagonal(first, -1)
    order = np.argsort(first, axis=1, kind="stable")
    return order, np.take_along_axis(squared, order, axis=1)


@pytest.mark.slow
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 45),
    block_rows=st.sampled_from([1, 7, 64]),
    search=st.sampled_from(SEARCHES),
)
def test_equals_a_sort_by_distance_and_index(
    seed: int, count: int, block_rows: int, search: Search
) -> None:
    # 300 images of few kinds: at 12 dimensions that never change there are at most 16 kinds, all
    # of which the search sees, so ties at the end of a list are in order as well.
    features = signs(seed, 300)
    features[:, 4:] = 0.25
    rows = UnitRows(features, block_rows=block_rows)
    near = nearest_neighbors(rows, count, farthest=True, search=search)
    order, squared = sorted_all(features)
    np.testing.assert_array_equal(near.rank, order[:, :count])
    np.testing.assert_array_equal(near.squared, squared[:, :count])
    assert near.farthest is not None
    assert near.farthest is not None
    np.testing.assert_allclose(near.farthest, squared[:, -1], rtol=1e-6)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("block_rows", [17, 100, None])
def test_blocks_do_not_show(block_rows: int | None, search: Search) -> None:
    features = normal(0, 250)
    features[[40, 199, 249]] = features[3]  # copies in other blocks
    near = nearest_neighbors(
        UnitRows(features, block_rows=block_rows), 9, farthest=True, search=search
    )
    order, squared = sorted_all(features)
    np.testing.assert_array_equal(near.rank, order[:, :9])
    np.testing.assert_allclose(near.squared, squared[:, :9], atol=1e-6)
    assert near.farthest is not None
    np.testing.assert_allclose(near.farthest, squared[:, -1], atol=1e-6)
    assert near.rank.dtype == np.int32
    assert near.rank[249, :4].tolist() == [249, 3, 40, 199]
    assert (near.squared[249, :4] == 0).all()


def test_the_farthest_is_found_only_when_asked_for() -> None:
    assert nearest_neighbors(UnitRows(normal(0, 5)), 2).farthest is None


@pytest.mark.parametrize("search", SEARCHES)
def test_more_copies_than_neighbors(search: Search) -> None:
    for seed in range(5):  # some lengths are not 1 after rounding, and 2 - 2 u.u is not 0
        single = normal(seed, 1, 67)
        features = np.concatenate([np.tile(single, (7, 1)), -single, np.tile(single, (2, 1))])
        near = nearest_neighbors(UnitRows(features), 3, farthest=True, search=search)
        copies = [[0, 1, 2], [1, 0, 2], *([i, 0, 1] for i in range(2, 7))]
        assert near.rank.tolist() == [*copies, [7, 0, 1], [8, 0, 1], [9, 0, 1]]
        assert not near.squared[near.rank[:, 0] != 7].any()
        np.testing.assert_allclose(near.squared[7], [0.0, 4.0, 4.0], rtol=1e-6)
        assert near.farthest is not None
        np.testing.assert_allclose(near.farthest, 4)


@pytest.mark.parametrize("search", SEARCHES)
def test_all_images_the_same(search: Search) -> None:
    for seed in range(10):
        same = np.tile(normal(seed, 1, 67), (30, 1))
        near = nearest_neighbors(UnitRows(same, block_rows=4), 5, farthest=True, search=search)
        for i, row in enumerate(near.rank):
            assert row.tolist() == [i, *(j for j in range(5) if j != i)][:5]
        assert not near.squared.any()
        assert near.farthest is not None
        assert not near.farthest.any()


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("seed", range(3))
def test_near_ties_are_in_order(seed: int, search: Search) -> None:
    # Squared distances 1e-4 + 2e-8 i: a product of float32 rows, 1 - 5e-5, has steps of 6e-8 and
    # cannot tell them apart. The farther an image, the lower its index. With fewer or shorter
    # rows faiss makes no products.
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(512, 8)))[0].T
    squared = 1e-4 + 2e-8 * np.arange(7)[::-1, None]
    near_ties = (1 - squared / 2) * axes[0] + np.sqrt(squared - squared**2 / 4) * axes[1:]
    features = np.concatenate([near_ties, axes[:1], normal(seed, 300, 512)])
    near = nearest_neighbors(UnitRows(features), 4, search=search)
    assert near.rank[7].tolist() == [7, 6, 5, 4]
    np.testing.assert_allclose(near.squared[7, 1:], squared[[6, 5, 4], 0], atol=5e-9)


@pytest.mark.parametrize("search", SEARCHES)
def test_images_that_differ_by_rounding_are_copies(search: Search) -> None:
    features = normal(9, 40, 67)
    noise = np.random.default_rng(0).normal(size=(6, 67)) * 1e-5
    features[[3, 8, 15, 16, 23, 39]] = features[3] * (1 + noise)  # squared distances below 1e-8
    near = nearest_neighbors(UnitRows(features), 7, search=search)
    assert near.rank[16, :6].tolist() == [16, 3, 8, 15, 23, 39]
    assert not near.squared[16, :6].any()
    assert near.squared[16, 6] > 0.1


@settings(max_examples=20, derandomize=True)  # float32 near ties may swap
@given(seed=st.integers(0, 2**32 - 1))
def test_permuting_the_images_permutes_the_lists(seed: int) -> None:
    features = normal(seed, 60)
    order = np.random.default_rng(seed).permutation(60)
    rank = nearest_neighbors(UnitRows(features), 8).rank
    permuted = nearest_neighbors(UnitRows(features[order]), 8).rank
    np.testing.assert_array_equal(order[permuted], rank[order])


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("images", [1, 2, 3])
def test_more_neighbors_than_images(images: int, search: Search) -> None:
    features = normal(2, images)
    near = nearest_neighbors(UnitRows(features), 30, farthest=True, search=search)
    order, squared = sorted_all(features)
    np.testing.assert_array_equal(near.rank, order)
    np.testing.assert_allclose(near.squared, squared, atol=1e-6)
    assert near.farthest is not None
    np.testing.assert_allclose(near.farthest, squared[:, -1], atol=1e-6)


@pytest.mark.parametrize("search", SEARCHES)
def test_more_ties_than_are_searched(search: Search) -> None:
    """Of images at one distance those of lowest index are the nearest, however many there are."""
    apart = nearest_neighbors(UnitRows(np.eye(300, dtype=np.float32)), 5, search=search)
    for i in (0, 3, 299):
        others = [j for j in range(6) if j != i][:4]
        assert apart.rank[i].tolist() == [i, *others]
    for block_rows in (20, 40):  # blocks shorter than a list, and ties across them
        cut = UnitRows(np.eye(60, dtype=np.float32), block_rows=block_rows)
        for i, row in enumerate(nearest_neighbors(cut, 45, search=search).rank):
            assert row.tolist() == [i, *(j for j in range(46) if j != i)][:45]
    codes = signs(9, 1500)
    near = nearest_neighbors(UnitRows(codes, block_rows=400), 5, search=search)
    np.testing.assert_array_equal(near.rank, sorted_all(codes)[0][:, :5])


def test_scale_and_layout_do_not_matter() -> None:
    features = normal(3, 50)
    expected = nearest_neighbors(UnitRows(features), 7)
    wide = np.repeat(features, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    double = features.astype(np.float64)
    for other in (double * 1e20, double * 1e-20, np.asfortranarray(features), wide):
        found = nearest_neighbors(UnitRows(other, block_rows=8), 7)
        np.testing.assert_array_equal(found.rank, expected.rank)
        np.testing.assert_allclose(found.squared, expected.squared, atol=1e-6)


def test_float16_on_disk(tmp_path: Path) -> None:
    half = normal(4, 120).astype(np.float16)
    np.save(tmp_path / "features.npy", half)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    near = nearest_neighbors(UnitRows(mapped, block_rows=32), 6)
    np.testing.assert_array_equal(near.rank, sorted_all(half)[0][:, :6])


@pytest.mark.parametrize("search", SEARCHES)
def test_rows_of_zeros_are_at_distance_one(search: Search) -> None:
    features = np.abs(normal(8, 40))  # all others are nearer to each other than at a right angle
    features[[5, 20, 31]] = 0
    near = nearest_neighbors(UnitRows(features), 5, farthest=True, search=search)
    assert near.rank[20, :3].tolist() == [20, 5, 31]
    np.testing.assert_allclose(near.squared[20], [0, 0, 0, 1, 1], atol=1e-6)
    others = np.setdiff1d(np.arange(40), [5, 20, 31])
    assert not np.isin(near.rank[others], [5, 20, 31]).any()
    order, squared = sorted_all(features[others])
    np.testing.assert_array_equal(near.rank[others], others[order[:, :5]])
    assert near.farthest is not None
    np.testing.assert_allclose(near.farthest[others], np.maximum(squared[:, -1], 1), atol=1e-6)
    np.testing.assert_allclose(near.farthest[20], 1, atol=1e-6)


def test_unit_rows() -> None:
    features = np.array([[3, 4], [0, 0], [0, -2], [1e-3, 0]], np.float64)
    rows = UnitRows(features)
    assert len(rows) == 4
    assert rows[0:4].dtype == np.float32
    np.testing.assert_allclose(
        rows[0:4], [[0.6, 0.8], [0.0, 0.0], [0.0, -1.0], [1.0, 0.0]], rtol=1e-6
    )
    np.testing.assert_allclose(rows[np.array([3, 0])], [[1.0, 0.0], [0.6, 0.8]], rtol=1e-6)
    first, second = np.array([0, 0, 2, 3]), np.array([2, 0, 0, 2])
    squared = rows.squared_distances(first, second)
    np.testing.assert_allclose(squared, [0.36 + 3.24, 0, 3.6, 2], rtol=1e-6)
    assert squared[0] == squared[2]


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_distances_of_pairs_are_symmetric_to_the_last_bit(seed: int) -> None:
    rows = UnitRows(normal(seed, 100, 67))
    first, second = np.random.default_rng(seed).integers(0, 100, (2, 9000))  # several blocks
    squared = rows.squared_distances(first, second)
    np.testing.assert_array_equal(squared, rows.squared_distances(second, first))
    dense = ((rows[0:100][first].astype(np.float64) - rows[0:100][second]) ** 2).sum(axis=1)
    np.testing.assert_allclose(squared, dense, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,), (2, 2, 2)])
def test_shapes_without_rows_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="no features"):
        UnitRows(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_row_that_is_not_finite_is_named(value: float) -> None:
    features = normal(5, 50)
    features[[33, 41], 1] = value
    with pytest.raises(NonFiniteFeaturesError, match=r"2 feature rows .*first: row 33") as raised:
        UnitRows(features, block_rows=8)
    assert (raised.value.first_row, raised.value.rows) == (33, 2)


def test_float64_beyond_float32_is_refused() -> None:
    features = normal(6, 5).astype(np.float64)
    features[2] *= 1e200
    with pytest.raises(NonFiniteFeaturesError, match="row 2"):
        UnitRows(features)
