"""Pseudo labels by DBSCAN on a sparse distance matrix."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values

from adapt.errors import ClusteringError
from adapt.types import PseudoLabels

RADIUS_ROUNDING = 1e-6
"""Added to the radius. Images whose query expansions share 4 of 6 rows are at 1/2 exactly, and
rounding, which differs from code to code, would decide about them."""


def cluster_dbscan(distances: csr_array, radius: float, min_samples: int) -> PseudoLabels:
    """Cluster images that are dense in a distance; the others are outliers.

    An image with at least `min_samples` images within `radius`, itself included, is a core image;
    core images within `radius` of each other share a cluster; other images join the first
    cluster with a core image within `radius`, or are outliers.

    Args:
        distances: (N, N) symmetric, in [0, 1], diagonal stored; stored zeros are distance 0,
            missing pairs are too far.
        radius: eps, in (0, 1): missing pairs are at most at distance 1; distances that exceed it
            by 1e-6 count as equal.
        min_samples: >= 1.

    Returns:
        Labels 0..K-1 in the order of the clusters' first core image, -1 for outliers.

    Raises:
        ClusteringError: radius is out of range, or there are no images.

    Source: Ester et al., KDD 1996; min_samples 4 in UDAP, SSG and MMT's DBSCAN script.
    """
    images = distances.shape[0]
    if images == 0:
        raise ClusteringError("no images to cluster: add crops to the site")
    if not 0 < radius < 1:
        raise ClusteringError(
            f"DBSCAN's radius must be in (0, 1), got {radius}: at 1 every image reaches every other"
        )
    graph = sort_graph_by_row_values(distances, copy=True, warn_when_not_sorted=False)
    estimator = DBSCAN(eps=radius + RADIUS_ROUNDING, min_samples=min_samples, metric="precomputed")
    labels = estimator.fit_predict(graph)
    return PseudoLabels(
        labels.astype(np.int64), f"dbscan eps={radius:.3f} min_samples={min_samples}"
    )
