"""DBSCAN's radius from the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.clustering.graph.rows import DistanceGraph, RowBlock, StoredGraph
from adapt.errors import ClusteringError

ZERO = 1e-6
"""Distances up to this are copies of one image: rounding decides between 0 and 1e-7."""

CUT = 0.75
"""How far distances are computed first: enough for all but very large radii."""

LARGEST = 0.95
"""Almost all pairs are at Jaccard distance 1: a radius near it makes one cluster of all images."""


def radius_by_pairs(graph: DistanceGraph, pairs_per_image: float) -> float:
    """Find the radius that a given number of pairs per image would choose.

        eps = mean of the round(c N) smallest J(i,j) > 0, i < j

    With c = 10.35 this is the rho rule with rho = 1.6e-3 at the size of Market-1501
    (N = 12,936), and, other than that rule, fits sites of any size.

    Args:
        graph: the distances.
        pairs_per_image: c > 0, about half the images a person has at the site.

    Returns:
        eps in (0, 0.95]; a larger one is cut.

    Raises:
        ClusteringError: no pair of different images is left to measure.
        ValueError: pairs_per_image is not positive.
    """
    if not pairs_per_image > 0:
        raise ValueError(f"pairs_per_image must be > 0, got {pairs_per_image}")
    return _mean_of_smallest(graph, pairs_per_image * graph.images)


def radius_by_rho(graph: DistanceGraph, rho: float) -> float:
    """Find the radius by the rule of UDAP, SSG and MMT's DBSCAN script.

        eps = mean of the smallest fraction rho of all J(i,j) > 0, i < j

    The number of pairs per image grows with N: at 1,000 images 1.6e-3 finds almost only outliers,
    at 30,000 it merges people. `radius_by_pairs` does not.

    Args:
        graph: the distances.
        rho: fraction in (0, 1]; 1.6e-3 in the papers.

    Returns:
        eps in (0, 0.95]; a larger one is cut.

    Raises:
        ClusteringError: the fraction holds no pair.
        ValueError: rho is out of range.

    Source: Song et al. (UDAP), arXiv:1807.11334.
    """
    if not 0 < rho <= 1:
        raise ValueError(f"rho must be in (0, 1], got {rho}")
    pairs = graph.images * (graph.images - 1) // 2
    copies = _smallest(_stored(graph), 0).copies
    return _mean_of_smallest(graph, rho * (pairs - copies))


@dataclass(frozen=True)
class _Smallest:
    """The smallest distances > 0 of pairs i < j, and how many pairs are at 0."""

    positive: NDArray[np.float32]
    copies: int


def _stored(graph: DistanceGraph) -> Iterator[RowBlock]:
    """All pairs up to CUT, from the matrix that clustering needs as well."""
    return StoredGraph(graph.distances(CUT)).rows(CUT)


def _smallest(rows: Iterable[RowBlock], count: int) -> _Smallest:
    """Keep the `count` smallest, sorted; there may be fewer."""
    kept = np.empty(0, np.float32)
    copies = 0
    for block in rows:
        distance = block.distance[block.column > block.row]
        copies += int((distance <= ZERO).sum())
        kept = np.concatenate([kept, distance[distance > ZERO]])
        if len(kept) > 2 * count:
            kept = np.partition(kept, count)[:count]
    return _Smallest(np.sort(kept)[:count], copies)


def _mean_of_smallest(graph: DistanceGraph, wanted: float) -> float:
    """Mean of the `wanted` smallest distances > 0; pairs that share nothing are at 1."""
    pairs = graph.images * (graph.images - 1) // 2
    found = _smallest(_stored(graph), min(round(wanted), pairs))
    count = min(round(wanted), pairs - found.copies)
    if len(found.positive) < count:
        found = _smallest(graph.rows(1.0), count)
    if count < 1:
        raise ClusteringError(
            f"no radius can be measured: {count} of {pairs} pairs of different images chosen; set "
            "the radius to a number (0.4 to 0.6), use pairs instead of rho, or add crops"
        )
    smallest = found.positive[:count].astype(np.float64)
    radius = (float(smallest.sum()) + count - len(smallest)) / count
    return min(radius, LARGEST)
