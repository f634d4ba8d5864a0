"""How well labels fit a sparse distance matrix; no ground truth is needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.types import OUTLIER


def silhouette(distances: csr_array, labels: NDArray[np.int64]) -> float:
    """Compute the mean silhouette of all images.

        a(i) = mean distance of i to the others of its cluster
        b(i) = least mean distance of i to another cluster
        s(i) = (b - a) / max(a, b); 0 for outliers, for clusters of one, and for an only cluster

    Args:
        distances: (N, N) symmetric, in [0, 1], diagonal stored as 0; pairs not stored count as 1.
        labels: (N,) 0..K-1 without holes, -1 for outliers.

    Returns:
        In [-1, 1]; 0 with less than two clusters. Outliers pull it to 0, merged clusters raise
        a, split ones lower b.

    Source: Rousseeuw, J. Comput. Appl. Math. 20 (1987).
    """
    return float(_of_clustered(distances, labels)[1].sum() / max(len(labels), 1))


def silhouette_of_each(distances: csr_array, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) silhouettes, whose mean `silhouette` is; arguments as there."""
    kept, each = _of_clustered(distances, labels)
    found = np.zeros(len(labels))
    found[kept] = each
    return found


def _of_clustered(
    distances: csr_array, labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Images in clusters of two or more, and their silhouettes; all others have 0."""
    images, clusters = len(labels), int(labels.max(initial=OUTLIER)) + 1
    kept = np.flatnonzero(labels != OUTLIER)
    if clusters < 2:
        return kept[:0], np.zeros(0)
    size = np.bincount(labels[kept])
    member = csr_array((np.ones(len(kept)), (kept, labels[kept])), (images, clusters))
    near = csr_array((1 - distances.data, distances.indices, distances.indptr), distances.shape)
    total = (near @ member).tocoo()  # sum of 1 - distance of each image to each cluster
    own = total.col == labels[total.row]
    to_own = np.zeros(images)
    to_own[total.row[own]] = total.data[own] - 1  # itself
    to_other = np.zeros(images)
    np.maximum.at(to_other, total.row[~own], total.data[~own] / size[total.col[~own]])
    kept = kept[size[labels[kept]] > 1]
    a = 1 - to_own[kept] / (size[labels[kept]] - 1)
    b = 1 - to_other[kept]
    return kept, (b - a) / np.maximum(np.maximum(a, b), 1e-12)
