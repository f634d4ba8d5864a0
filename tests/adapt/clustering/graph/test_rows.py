"""Rows of a distance matrix: averages, the source term, nearest lists; against dense matrices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.clustering.graph.jaccard import JaccardGraph
from adapt.clustering.graph.rows import (
    FEW_PAIRS,
    AverageGraph,
    NearestLists,
    RowBlock,
    StoredGraph,
    average_rows,
    fill_up,
    nearest_lists,
    stack_rows,
)
from adapt.errors import ClusteringError

IMAGES = 40


def random_distances(seed: int) -> NDArray[np.float32]:
    """(N, N) symmetric float32, about half the pairs at 1; multiples of 1/64, so with ties."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.integers(0, 128, (IMAGES, IMAGES)), 1).clip(max=64)
    return ((upper + upper.T) / 64).astype(np.float32)


def sparse(dense: NDArray[np.float32]) -> csr_array:
    """All pairs below 1, zeros stored."""
    row, column = np.nonzero(dense < 1)
    return csr_array((dense[row, column], (row, column)), dense.shape)


def blocks(dense: NDArray[np.float32], longest: float, size: int = 7) -> Iterator[RowBlock]:
    """Rows in several blocks, as a graph gives them."""
    (whole,) = StoredGraph(sparse(dense)).rows(longest)
    for first in range(0, len(dense), size):
        start = whole.start[first : first + size + 1]
        part = slice(start[0], start[-1])
        yield RowBlock(
            first, len(dense), start - start[0], whole.column[part], whole.distance[part]
        )


def full(matrix: csr_array) -> NDArray[np.float32]:
    """Stored values, 1 elsewhere."""
    dense = np.ones(matrix.shape, np.float32)
    coo = matrix.tocoo()
    dense[coo.row, coo.col] = coo.data
    return dense


def test_a_stored_matrix_gives_its_rows() -> None:
    dense = random_distances(0)
    graph = StoredGraph(sparse(dense))
    assert graph.images == IMAGES
    np.testing.assert_array_equal(full(graph.distances(0.3)), np.where(dense <= 0.3, dense, 1))
    (block,) = graph.rows(0.5)
    assert block.distance.max() == 0.5
    kept = dense <= 0.5
    assert block.row.tolist() == np.nonzero(kept)[0].tolist()
    assert block.column.tolist() == np.nonzero(kept)[1].tolist()
    np.testing.assert_array_equal(block.distance, dense[kept])


def test_stacked_rows_are_the_matrix() -> None:
    dense = random_distances(1)
    stacked = stack_rows(blocks(dense, 1.0))
    np.testing.assert_array_equal(full(stacked), dense)
    assert stacked.shape == (IMAGES, IMAGES)
    assert stacked.dtype == np.float32
    assert stacked.nnz == (dense < 1).sum(), "zeros are stored"


def test_a_block_with_some_entries() -> None:
    block = RowBlock(
        3, 9, np.array([0, 2, 2, 5]), np.array([1, 3, 0, 5, 8]), np.array([0.1, 0, 0.3, 0, 0.9])
    )
    assert block.row.tolist() == [3, 3, 5, 5, 5]
    part = block.where(block.distance < 0.2)
    assert (part.first, part.images) == (3, 9)
    assert part.start.tolist() == [0, 2, 2, 3]
    assert part.column.tolist() == [1, 3, 5]
    assert part.row.tolist() == [3, 3, 5]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), longest=st.sampled_from([0.2, 0.4375, 0.5, 0.7, 1.0]))
def test_averages_equal_the_dense_average(seed: int, longest: float) -> None:
    one, two = random_distances(seed), random_distances(seed + 1)
    asked = min(1.0, 2 * longest)
    average = stack_rows(average_rows(blocks(one, asked), blocks(two, asked), longest))
    wanted = (one + two) / 2
    kept = wanted <= longest if longest < 1 else wanted < 1
    stored = average.tocoo()
    assert set(zip(stored.row, stored.col, strict=True)) == set(zip(*np.nonzero(kept), strict=True))
    np.testing.assert_array_equal(stored.data, wanted[stored.row, stored.col])


def test_the_average_of_two_networks_is_exact_below_the_cut() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(rng.normal(size=(10, 6)), 6, axis=0)
    graphs = [
        JaccardGraph(person + rng.normal(size=person.shape) / 2, k1=8, k2=3, variant="faiss")
        for _ in "ab"
    ]
    wanted = sum(full(graph.distances(1.0)) for graph in graphs) / 2
    average = full(stack_rows(average_rows(graphs[0].rows(0.8), graphs[1].rows(0.8), 0.4)))
    assert 60 < (wanted <= 0.4).sum() < 3600
    np.testing.assert_allclose(average, np.where(wanted <= 0.4, wanted, 1), atol=1e-6)


def test_a_network_that_lacks_rows_is_refused() -> None:
    rows = list(blocks(random_distances(2), 1.0))
    with pytest.raises(ValueError, match="shorter"):
        list(average_rows(rows, rows[:-1], 0.5))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    cameras=st.integers(1, 4),
    nearest=st.integers(1, 30),
    across=st.integers(1, 30),
)
def test_nearest_lists_equal_a_sort(seed: int, cameras: int, nearest: int, across: int) -> None:
    dense = random_distances(seed)
    seen = np.random.default_rng(seed).integers(0, cameras, IMAGES)
    lists = nearest_lists(blocks(dense, 1.0), seen, nearest=nearest, cross_camera=across)
    assert lists.nearest.shape == (IMAGES, nearest)
    assert lists.cross_camera.shape == (IMAGES, across)
    for i in range(IMAGES):
        order = [int(j) for j in np.argsort(dense[i], kind="stable") if dense[i, j] < 1 and j != i]
        others = [j for j in order if seen[j] != seen[i]]
        for row, wanted in ((lists.nearest[i], order), (lists.cross_camera[i], others)):
            padded = wanted + [-1] * len(row)
            assert row.tolist() == padded[: len(row)]


def test_more_pairs_than_memory_should_hold_are_refused_while_they_come() -> None:
    """Rows of images that all look the same would be the whole N x N matrix."""
    images, made = 4000, []

    def rows() -> Iterator[RowBlock]:
        for first in range(0, images, 100):
            made.append(first)
            start = np.arange(101, dtype=np.int64) * images
            column = np.tile(np.arange(images, dtype=np.int32), 100)
            yield RowBlock(first, images, start, column, np.zeros(len(column), np.float32))

    with pytest.raises(ClusteringError, match="too many of the 4000 images look the same"):
        stack_rows(rows())
    assert len(made) == FEW_PAIRS // (100 * images) + 1


def test_few_images_may_all_look_the_same() -> None:
    graph = JaccardGraph(np.ones((600, 4), np.float32), k1=20, k2=6, variant="classic")
    matrix = graph.distances(0.5)
    assert matrix.nnz == 600 * 600
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32, "8 bytes a pair"


def test_an_average_graph_gives_what_the_dense_average_has() -> None:
    one, two = random_distances(4), random_distances(5)
    graph = AverageGraph(StoredGraph(sparse(one)), StoredGraph(sparse(two)))
    wanted = (one + two) / 2
    assert graph.images == IMAGES
    np.testing.assert_array_equal(full(stack_rows(graph.rows(1.0))), wanted)
    for longest in (0.3, 0.7, 0.5, 0.3):  # up, and down again from what is held
        found = graph.distances(longest)
        np.testing.assert_array_equal(full(found), np.where(wanted <= longest, wanted, 1))
    assert found.nnz == (wanted <= 0.3).sum()


def test_graphs_of_other_images_have_no_average() -> None:
    small = StoredGraph(sparse(np.zeros((3, 3), np.float32)))
    with pytest.raises(ValueError, match="3 images and 40"):
        AverageGraph(small, StoredGraph(sparse(random_distances(6))))


def test_short_lists_are_filled_by_the_original_distance_by_hand() -> None:
    angle = np.radians([0, 10, 40, 90, 180])
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    cameras = np.array([0, 0, 1, 1, 1])
    lists = NearestLists(
        np.array([[4, -1], [0, 2], [-1, -1], [-1, -1], [-1, -1]], np.int32),
        np.array([[3, -1, -1], [-1, -1, -1], [0, -1, -1], [1, -1, -1], [0, 1, -1]], np.int32),
    )
    found = fill_up(lists, [features], cameras)
    # what is listed stays first; then by angle
    assert found.nearest.tolist() == [[4, 1], [0, 2], [1, 0], [2, 1], [3, 2]]
    # images of the own camera never, and -1 where the other camera has no more
    assert found.cross_camera.tolist() == [[3, 2, 4], [2, 3, 4], [0, 1, -1], [1, 0, -1], [0, 1, -1]]
    assert lists.nearest[2].tolist() == [-1, -1], "the lists that were given are untouched"


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), listed=st.integers(0, 4), width=st.integers(1, 6))
def test_filling_equals_the_reference(seed: int, listed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    total = 9
    features = []
    for _ in "ab":
        rows = rng.integers(-1, 2, (total, 2)) + 0.5  # few directions: many ties
        features.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    cameras = rng.integers(0, 2, total)
    dense = random_distances(seed)[:total, :total]
    rows = stack_rows(blocks(dense, 1.0))
    start = nearest_lists(StoredGraph(rows).rows(1.0), cameras, nearest=width, cross_camera=width)
    start.nearest[:, listed:], start.cross_camera[:, listed:] = -1, -1
    found = fill_up(start, features, cameras)
    for i in range(total):
        distance = [
            round(sum(float(((f[i].astype(float) - f[j]) ** 2).sum()) for f in features) / 2, 5)
            for j in range(total)
        ]
        for before, after, allowed in (
            (start.nearest, found.nearest, [j for j in range(total) if j != i]),
            (start.cross_camera, found.cross_camera, np.flatnonzero(cameras != cameras[i])),
        ):
            held = [j for j in before[i].tolist() if j >= 0]
            rest = sorted((j for j in allowed if j not in held), key=lambda j: (distance[j], j))
            wanted = [*held, *(int(j) for j in rest)][:width]
            assert after[i].tolist() == wanted + [-1] * (width - len(wanted))


def test_full_lists_and_no_lists_stay_as_they_are() -> None:
    features = np.eye(3, dtype=np.float32)
    lists = NearestLists(np.array([[1], [0], [0]], np.int32), np.empty((3, 0), np.int32))
    found = fill_up(lists, [features], np.zeros(3, np.int64))
    np.testing.assert_array_equal(found.nearest, lists.nearest)
    assert found.cross_camera.shape == (3, 0)
