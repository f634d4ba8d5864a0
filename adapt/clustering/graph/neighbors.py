"""Exact nearest neighbors by blocks: nothing N x N is held, and features may be on disk."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError, NonFiniteFeaturesError
from adapt.runtime.threads import in_threads

BLOCK_BYTES = 64 << 20
"""float32 features held at a time, once for the queries and once for what is searched."""

MAX_BLOCK_ROWS = 16384

MARGIN = 8
"""More neighbors than asked for are searched: matrix products round, and may swap near ones."""

RESOLUTION = 1e-6
"""Squared distances below this are float32 rounding, and counted as 0."""

MIN_ROW_LENGTH = 1e-30
"""Rows shorter than this are zero rows: they have no direction in float32."""

PAIR_BLOCK = 4096
"""Pairs whose distance is computed at a time."""


class UnitRows:
    """Features read a few rows at a time, as float32 rows of length 1.

    A float16 memory map stays on disk: only what is asked for is read.
    """

    def __init__(self, features: NDArray[np.floating], *, block_rows: int | None = None) -> None:
        """Args:
        features: (N, D) floating point, N >= 1; a zero row stays zero.
        block_rows: rows to hold at a time; as many as fit into 64 MB unless given.

        Raises DataError without rows, NonFiniteFeaturesError for NaN or infinity.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise DataError(
                f"no features to compare (shape {features.shape}): add crops to the site"
            )
        self._features = features
        self._scale = np.empty(len(features), np.float32)
        bad = []
        fit = max(1, min(MAX_BLOCK_ROWS, BLOCK_BYTES // (4 * features.shape[1])))
        self.block_rows = block_rows or fit
        for rows in _parts(len(features), self.block_rows):
            block = features[rows].astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                # beyond float32 is infinity, too: rows are handed out as float32
                finite = np.isfinite(block.astype(np.float32)).all(axis=1)
                bad.extend(rows.start + np.flatnonzero(~finite))
                self._scale[rows] = 1 / np.maximum(np.linalg.norm(block, axis=1), MIN_ROW_LENGTH)
        if bad:
            raise NonFiniteFeaturesError(int(bad[0]), len(bad))

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        """(B, D) float32."""
        scale = self._scale[rows, None]
        return np.ascontiguousarray(self._features[rows].astype(np.float32) * scale, np.float32)

    def squared_distances(
        self, first: NDArray[np.integer], second: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """(M,) squared Euclidean distance of M pairs of rows; the same for (i,j) and (j,i)."""
        squared = np.empty(len(first), np.float32)

        def measure(part: slice) -> None:
            difference = self[first[part]] - self[second[part]]
            squared[part] = np.einsum("pd,pd->p", difference, difference)

        deque(in_threads(measure, _parts(len(first), PAIR_BLOCK)), maxlen=0)
        squared[squared < RESOLUTION] = 0
        return squared


@dataclass(frozen=True)
class Neighbors:
    """The nearest neighbors of N images.

    rank: (N, K) int32, the image itself first, then by (squared distance, index).
    squared: (N, K) float32 squared distances of those.
    farthest: (N,) float32 squared distance of the farthest of all images, where asked for.
    """

    rank: NDArray[np.int32]
    squared: NDArray[np.float32]
    farthest: NDArray[np.float32] | None = None


class Search(Protocol):
    """Exact search of rows of length 1 (or 0) in a block, on some device."""

    def nearest(
        self, queries: NDArray[np.float32], block: NDArray[np.float32], width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(B, width) squared distances, ascending, and their positions in `block`."""

    def farthest(
        self, queries: NDArray[np.float32], block: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(B,) squared distance of the farthest."""


class FaissSearch:
    """Search on the CPU."""

    def nearest(
        self, queries: NDArray[np.float32], block: NDArray[np.float32], width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `Search`."""
        distance, position = faiss.knn(queries, block, width)
        return distance, position

    def farthest(
        self, queries: NDArray[np.float32], block: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `Search`: |b|^2 - 2 q.b is a product of rows with one more column."""
        left = np.column_stack([-2 * queries, np.ones(len(queries), np.float32)])
        right = np.column_stack([block, np.einsum("bd,bd->b", block, block)])
        product, _ = faiss.knn(left, right, 1, faiss.METRIC_INNER_PRODUCT)
        farthest: NDArray[np.float32] = np.einsum("qd,qd->q", queries, queries) + product[:, 0]
        return farthest


def nearest_neighbors(
    rows: UnitRows, count: int, *, farthest: bool = False, search: Search | None = None
) -> Neighbors:
    """Rank each image's nearest images, itself first.

    Exact but for float32 rounding: two images whose squared distances from a third differ by less
    than 1e-6 may change places at the end of its list. Copies of an image are at distance 0 and
    follow it in the order of their index.

    Args:
        rows: N images.
        count: neighbors to return, >= 1, the image itself included; more than N means N.
        farthest: find the farthest image, too (as long again).
        search: where matrix products are made; faiss on the CPU unless given.
    """
    search = search or FaissSearch()
    count = min(count, len(rows))
    kept, group = _distinct(rows)
    width = min(count + MARGIN, len(kept))
    members = _Members(group, count)
    rank = np.empty((len(rows), count), np.int32)
    squared = np.empty((len(rows), count), np.float32)
    far = np.empty(len(rows), np.float32) if farthest else None
    for part in _parts(len(kept), rows.block_rows):
        queries = kept[part]
        images = np.flatnonzero((group >= part.start) & (group < part.stop))
        row = group[images] - part.start
        ids = kept[_search(search, rows, rows[queries], kept, width)]
        distance = rows.squared_distances(np.repeat(queries, width), ids.ravel())
        found = members.rank(group[ids], distance.reshape(ids.shape), count)
        rank[images], squared[images] = _self_first(images, found[0][row], found[1][row])
        if far is not None:
            far[images] = _farthest(search, rows, rows[queries], kept)[row]
    return Neighbors(rank, squared, far)


def _distinct(rows: UnitRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First image of each group of copies, and each image's group."""
    first: dict[bytes, int] = {}
    group = np.empty(len(rows), np.int64)
    kept: list[int] = []
    for part in _parts(len(rows), rows.block_rows):
        for i, row in enumerate(rows[part], start=part.start):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            group[i] = first.setdefault(digest, len(first))
            if len(first) > len(kept):
                kept.append(i)
    return np.array(kept), group


def _search(
    search: Search,
    rows: UnitRows,
    queries: NDArray[np.float32],
    kept: NDArray[np.int64],
    width: int,
) -> NDArray[np.int64]:
    """(B, width) positions in `kept` of the nearest, by float32 matrix products."""
    heap = faiss.ResultHeap(len(queries), width)
    for part in _parts(len(kept), rows.block_rows):
        block = rows[kept[part]]
        distance, position = search.nearest(queries, block, min(width, len(block)))
        heap.add_result(distance, position + part.start)
    heap.finalize()
    found: NDArray[np.int64] = heap.I
    return found


def _farthest(
    search: Search, rows: UnitRows, queries: NDArray[np.float32], kept: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(B,) squared distance of the farthest."""
    farthest = np.zeros(len(queries), np.float32)
    for part in _parts(len(kept), rows.block_rows):
        farthest = np.maximum(farthest, search.farthest(queries, rows[kept[part]]))
    return np.where(farthest < RESOLUTION, 0, farthest)


class _Members:
    """The images of each group of copies, at most `limit` of lowest index: more are not needed."""

    def __init__(self, group: NDArray[np.int64], limit: int) -> None:
        order = np.argsort(group, kind="stable")
        size = np.bincount(group)
        self._start = np.cumsum(size) - size
        self._size = np.minimum(size, limit)
        self._images = order

    def rank(
        self, groups: NDArray[np.int64], squared: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(B, count) images and distances in order of (distance, index), of (B, M) groups."""
        size = self._size[groups]
        entries = size.ravel()
        offset = np.arange(entries.sum()) - np.repeat(np.cumsum(entries) - entries, entries)
        image = self._images[np.repeat(self._start[groups.ravel()], entries) + offset]
        distance = np.repeat(squared.ravel(), entries)
        row = np.repeat(np.arange(len(groups)), size.sum(axis=1))
        order = np.lexsort((image, distance, row))
        start = np.cumsum(size.sum(axis=1)) - size.sum(axis=1)
        first = order[start[:, None] + np.arange(count)]
        return image[first], distance[first]


def _self_first(
    images: NDArray[np.int64], rank: NDArray[np.int64], squared: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Move each image to the front of its own list."""
    own = rank == images[:, None]
    lost = ~own.any(axis=1)  # pushed out by copies of lower index
    rank[lost, -1], squared[lost, -1], own[lost, -1] = images[lost], 0, True
    order = np.argsort(~own, axis=1, kind="stable")
    return np.take_along_axis(rank, order, 1), np.take_along_axis(squared, order, 1)


def _parts(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
