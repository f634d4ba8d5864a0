"""Sparse distance matrices some rows at a time: what whole rows are needed for, without a matrix.

Everywhere a pair that is not stored is at distance 1, or farther than the cut that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.errors import ClusteringError
from models.wording import plural

MAX_PAIRS = 400
"""Stored pairs per image, on average, from which on a matrix is refused. Features that tell people
apart have some 20 (DBSCAN) to 110 (HDBSCAN); where all images look the same it would be N x N."""

FEW_PAIRS = 1 << 23
"""So many pairs may be stored however few images there are (64 MB)."""


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows of a symmetric (N, N) distance matrix.

    first: index of the first row. images: N. start (B + 1,) int64, column int32, distance float32:
    the rows as CSR, columns ascending; the diagonal is stored as 0.
    """

    first: int
    images: int
    start: NDArray[np.int64]
    column: NDArray[np.int32]
    distance: NDArray[np.float32]

    @property
    def row(self) -> NDArray[np.int64]:
        """(M,) row of each entry."""
        return self.first + np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))

    def where(self, kept: NDArray[np.bool_]) -> RowBlock:
        """The same rows with some of their entries."""
        count = np.concatenate([[0], np.cumsum(kept)])
        return RowBlock(
            self.first, self.images, count[self.start], self.column[kept], self.distance[kept]
        )


class DistanceGraph(Protocol):
    """Distances of N images that can be asked for as far as they are needed."""

    @property
    def images(self) -> int:
        """N."""

    def rows(self, max_distance: float) -> Iterator[RowBlock]:
        """All pairs at most that far, row by row; 1 asks for all pairs that are below 1."""

    def distances(self, max_distance: float) -> csr_array:
        """(N, N) float32 of all pairs at most that far."""


@dataclass(frozen=True)
class StoredGraph:
    """A matrix as a graph: (N, N) symmetric, the diagonal stored, missing pairs at 1."""

    matrix: csr_array

    @property
    def images(self) -> int:
        """N."""
        return int(self.matrix.shape[0])

    def rows(self, max_distance: float) -> Iterator[RowBlock]:
        """See `DistanceGraph`."""
        m = self.matrix
        block = RowBlock(0, self.images, m.indptr, m.indices, m.data.astype(np.float32))
        yield block.where(block.distance <= max_distance)

    def distances(self, max_distance: float) -> csr_array:
        """See `DistanceGraph`."""
        return stack_rows(self.rows(max_distance))


def stack_rows(blocks: Iterable[RowBlock]) -> csr_array:
    """Put all rows of a matrix together: (N, N) float32.

    Raises ClusteringError as soon as there are more pairs than memory should hold.
    """
    held: list[RowBlock] = []
    pairs = 0
    for block in blocks:
        held.append(block)
        pairs += len(block.column)
        if pairs > max(FEW_PAIRS, MAX_PAIRS * block.images):
            raise ClusteringError(
                f"too many of the {block.images} images look the same (over {pairs:,} near pairs): "
                "the network does not tell them apart, or many crops are copies; start from "
                "another network, remove the copies, or set a smaller radius"
            )
    counts = np.concatenate([np.diff(block.start) for block in held])
    start = np.concatenate([[0], np.cumsum(counts)])
    if start[-1] <= np.iinfo(np.int32).max:
        start = start.astype(np.int32)  # the columns would be widened to it
    column = np.concatenate([block.column for block in held])
    distance = np.concatenate([block.distance for block in held])
    return csr_array((distance, column, start), (len(counts), len(counts)))


def average_rows(
    first: Iterable[RowBlock], second: Iterable[RowBlock], max_distance: float
) -> Iterator[RowBlock]:
    """Average the distances of two networks: D(i,j) = (D1(i,j) + D2(i,j)) / 2 <= max_distance.

    Args:
        first, second: rows of both in the same blocks, asked for up to min(1, 2 max_distance).
        max_distance: pairs farther than this are left out.

    Source: AML, section 3.2: both networks cluster the average of their re-ranked distances.
    """
    for a, b in zip(first, second, strict=True):
        shape = (len(a.start) - 1, a.images)
        near = [
            csr_array((1 - block.distance, block.column, block.start), shape) for block in (a, b)
        ]
        both = ((near[0] + near[1]) / 2).tocsr()
        both.sort_indices()
        block = RowBlock(
            a.first, a.images, both.indptr, both.indices, (1 - both.data).astype(np.float32)
        )
        yield block.where(block.distance <= max_distance)


class AverageGraph:
    """The mean of two networks' distances of the same images, see `average_rows`.

    Holds the matrix that was asked for last, as far as it was asked for.
    """

    def __init__(self, first: DistanceGraph, second: DistanceGraph) -> None:
        if first.images != second.images:
            raise ValueError(
                f"graphs of {plural(first.images, 'image')} and {second.images} cannot be averaged"
            )
        self._graphs = (first, second)
        self._stored: tuple[float, csr_array] | None = None

    @property
    def images(self) -> int:
        """N."""
        return self._graphs[0].images

    def rows(self, max_distance: float) -> Iterator[RowBlock]:
        """See `DistanceGraph`."""
        reach = min(1.0, 2 * max_distance)
        first, second = (graph.rows(reach) for graph in self._graphs)
        return average_rows(first, second, max_distance)

    def distances(self, max_distance: float) -> csr_array:
        """See `DistanceGraph`."""
        if self._stored is None or self._stored[0] < max_distance:
            self._stored = (max_distance, stack_rows(self.rows(max_distance)))
        return StoredGraph(self._stored[1]).distances(max_distance)


@dataclass(frozen=True)
class NearestLists:
    """Each image's nearest others, by (distance, index), out of those at a distance below 1.

    nearest: (N, a) int32, of all images. cross_camera: (N, b) int32, of images that another camera
    saw. -1 where there are not so many.
    """

    nearest: NDArray[np.int32]
    cross_camera: NDArray[np.int32]


def nearest_lists(
    rows: Iterable[RowBlock], cameras: NDArray[np.int64], *, nearest: int, cross_camera: int
) -> NearestLists:
    """Collect the nearest images of whole rows, before any cut.

    Args:
        rows: all rows, asked for up to 1.
        cameras: (N,) camera codes.
        nearest, cross_camera: lengths of the lists (AML: 3 and 15).

    Source: AML, section 3.2, merging of clusters.
    """
    shapes = [(len(cameras), nearest), (len(cameras), cross_camera)]
    lists = [np.full(shape, -1, np.int32) for shape in shapes]
    for block in rows:
        row = block.row
        other = row != block.column
        for found, kept in (
            (lists[0], other),
            (lists[1], other & (cameras[row] != cameras[block.column])),
        ):
            part = block.where(kept)
            order = np.lexsort((part.column, part.distance, part.row))
            place = np.arange(len(order)) - np.repeat(part.start[:-1], np.diff(part.start))
            listed = place < found.shape[1]
            found[part.row[listed], place[listed]] = part.column[order][listed]
    return NearestLists(*lists)


FILL_BLOCK = 128
"""Images whose lists are filled at a time."""

FILL_RESOLUTION = 6
"""Decimals of a similarity that count; beyond lies float32 rounding, and copies are ties."""


def fill_up(
    lists: NearestLists, features: Sequence[NDArray[np.float32]], cameras: NDArray[np.int64]
) -> NearestLists:
    """Fill lists that are too short by the original distance.

    Images that share no neighbor are all at re-ranked distance 1, which cannot order them. They
    follow by the mean of the networks' squared Euclidean distances, ties by index.

    Args:
        lists: of N images.
        features: (N, D) of each network, rows of length 1.
        cameras: (N,) camera codes.

    Returns:
        Lists with -1 only where there is no further image (of another camera).

    Source: AML, section 3.2, lists the nearest of all images; Zhong's re-ranked distance, that it
        sorts by, mixes in the original one.
    """
    full = NearestLists(lists.nearest.copy(), lists.cross_camera.copy())
    short = np.flatnonzero((lists.nearest < 0).any(axis=1) | (lists.cross_camera < 0).any(axis=1))
    for start in range(0, len(short), FILL_BLOCK):
        rows = short[start : start + FILL_BLOCK]
        likeness = np.sum([each[rows] @ each.T for each in features], axis=0)
        far = -np.round(likeness.astype(np.float64), FILL_RESOLUTION)
        far[np.arange(len(rows)), rows] = np.inf
        _fill_rows(full.nearest, rows, far)
        far[cameras[rows][:, None] == cameras[None, :]] = np.inf
        _fill_rows(full.cross_camera, rows, far)
    return full


def _fill_rows(
    lists: NDArray[np.int32], rows: NDArray[np.int64], distance_RN: NDArray[np.float64]
) -> None:
    """Fill some rows of one kind of lists; what may not be listed is at infinity."""
    for row, distances in zip(rows, distance_RN, strict=True):
        held = lists[row][lists[row] >= 0]
        free = np.flatnonzero(lists[row] < 0)[: len(distances)]
        if not len(free):
            continue
        # so many nearest hold enough that are not listed yet
        enough = min(len(free) + len(held), len(distances)) - 1
        limit = np.partition(distances, enough)[enough]
        near = np.flatnonzero((distances <= limit) & np.isfinite(distances))
        near = near[~np.isin(near, held)]
        near = near[np.argsort(distances[near], kind="stable")][: len(free)]
        lists[row, free[: len(near)]] = near
