"""Exact nearest neighbours by blocks: nothing N x N is held."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_ENTRIES = 4_000_000
"""Distances computed at a time (64 MB with what is derived from them)."""

RESOLUTION = 1e-6
"""Squared distances of unit vectors below this are float32 rounding, and counted as 0."""


def nearest_neighbours(
    unit: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank each vector's nearest vectors, itself first.

    Order: the vector itself, then by (squared distance, index). Copies of a vector therefore
    come right after it, in index order.

    Args:
        unit: (N, D) float32, rows of length 1, finite.
        count: neighbours to return, 1..N, the vector itself included.

    Returns:
        (N, count) indices, and (N,) the squared distance of the farthest of all N vectors.
    """
    total = len(unit)
    rank = np.empty((total, count), np.int64)
    farthest = np.empty(total, np.float32)
    square = np.einsum("nd,nd->n", unit, unit)
    rows = max(1, BLOCK_ENTRIES // total)
    for start in range(0, total, rows):
        block = unit[start : start + rows]
        own = np.arange(len(block))
        squared = square[start : start + rows, None] + square - 2 * (block @ unit.T)
        squared[squared < RESOLUTION] = 0
        farthest[start : start + rows] = squared.max(axis=1)
        # The bits of a float >= 0 sort like the float: one integer key holds (distance, index).
        key = squared.view(np.int32).astype(np.int64) << 32 | np.arange(total)
        key[own, start + own] = -1
        nearest = np.sort(np.partition(key, count - 1, axis=1)[:, :count], axis=1)
        rank[start : start + rows] = nearest & 0xFFFFFFFF
        rank[start : start + rows, 0] = start + own
    return rank, farthest
