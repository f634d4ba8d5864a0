"""Pseudo labels by HDBSCAN on a sparse distance matrix."""

from __future__ import annotations

import heapq

import numpy as np
from hdbscan._hdbscan_linkage import label as single_linkage
from hdbscan.hdbscan_ import _tree_to_labels
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.errors import ClusteringError
from adapt.runtime.numba_cache import compiled
from adapt.types import PseudoLabels
from models.wording import plural

FARTHEST = 1.0
"""Distance of pairs that are not stored."""

REACH = 0.98
"""How far pairs have to be stored. Most pairs below 1 lie between here and 1; counting them as 1
moves no density (1 / distance) by more than 2 %, and saves two thirds of them at 4,000 images."""


def cluster_hdbscan(
    distances: csr_array, *, min_samples: int, min_cluster_size: int
) -> PseudoLabels:
    """Cluster images by density at all scales at once: no radius is needed.

        core(i)  = distance of the min_samples-th nearest other image of i
        m(i,j)   = max(core(i), core(j), J(i,j))                        mutual reachability
        clusters = the most persistent branches of the minimum spanning tree of m

    The same as the hdbscan library on the dense matrix, where the pairs that are not stored are
    at 1: they bridge the parts of the graph at weight 1.

    Args:
        distances: (N, N) symmetric, in [0, 1], diagonal stored, of all pairs up to `REACH`; pairs
            that are not stored count as 1.
        min_samples: >= 1; NRMT takes 8.
        min_cluster_size: >= 2, fewest images of a cluster.

    Returns:
        Labels 0..K-1, -1 for outliers.

    Raises:
        ClusteringError: fewer images than min_samples or min_cluster_size.
        ValueError: min_samples or min_cluster_size is out of range.

    Source: Campello et al., PAKDD 2013; NRMT (Zhao et al., ECCV 2020), section 3.2.
    """
    if min_samples < 1 or min_cluster_size < 2:
        raise ValueError("min_samples must be >= 1 and min_cluster_size >= 2")
    images = distances.shape[0]
    if images < max(min_samples, min_cluster_size):
        raise ClusteringError(
            f"{plural(images, 'image')} cannot form clusters of "
            f"{max(min_samples, min_cluster_size)}: add crops or lower min_samples and "
            "min_cluster_size"
        )
    core = _core_distances(distances, min_samples)
    tree = _spanning_tree(
        distances.indptr, distances.indices, distances.data.astype(np.float64), core
    )
    linkage = single_linkage(tree[np.argsort(tree[:, 2])])  # ties in the library's order
    labels, *_ = _tree_to_labels(np.empty((images, 0)), linkage, min_cluster_size=min_cluster_size)
    return PseudoLabels(
        _contiguous(labels),
        f"hdbscan min_samples={min_samples} min_cluster_size={min_cluster_size}",
    )


def _core_distances(distances: csr_array, min_samples: int) -> NDArray[np.float64]:
    core = np.full(distances.shape[0], FARTHEST)
    for i in range(distances.shape[0]):
        row = distances.data[distances.indptr[i] : distances.indptr[i + 1]]
        if len(row) > min_samples:
            core[i] = np.partition(row, min_samples)[min_samples]
    return core


@compiled
def _spanning_tree(start, column, distance, core):  # type: ignore[no-untyped-def]
    """(N - 1, 3) edges i, j, m(i,j) in Prim's order: from image 0, the nearest image next.

    Ties go to the lowest index, and what no stored pair reaches is joined to image 0 at last, as
    the library does on the dense matrix: other spanning trees, as short, give other clusters.
    """
    total = len(core)
    edges = np.empty((total - 1, 3), np.float64)
    nearest = np.full(total, FARTHEST)
    source = np.zeros(total, np.int64)
    joined = np.zeros(total, np.bool_)
    heap = [(FARTHEST, np.int64(j)) for j in range(total)]
    current = np.int64(0)
    for e in range(total - 1):
        joined[current] = True
        for p in range(start[current], start[current + 1]):
            j = np.int64(column[p])
            reach = max(core[current], core[j], distance[p])
            if not joined[j] and reach < nearest[j]:
                nearest[j], source[j] = reach, current
                heapq.heappush(heap, (reach, j))
        while joined[heap[0][1]]:
            heapq.heappop(heap)
        current = heap[0][1]
        edges[e, 0], edges[e, 1], edges[e, 2] = source[current], current, nearest[current]
    return edges


def _contiguous(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Clusters numbered by their first image; outliers stay -1."""
    ids, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.where(ids < 0, -1, first))
    rank = np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids)) - int((ids < 0).any())
    return rank[inverse]
