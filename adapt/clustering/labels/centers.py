"""Cluster centers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.types import OUTLIER

_COLUMNS = 128


def cluster_centers(
    features: NDArray[np.float32], labels: NDArray[np.int64], *, normalize: bool
) -> NDArray[np.float32]:
    """Average the features of each cluster.

        c_k = mean of f_i over y_i = k,    normalized: c_k / max(|c_k|, 1e-12)

    Args:
        features: (N, D) floating point, finite.
        labels: (N,) 0..K-1 without holes; -1 (outliers) belong to no center.
        normalize: scale each center to length 1, as MMT's classifiers want it.

    Returns:
        (K, D) float32, row k the center of cluster k.

    Raises:
        ValueError: lengths differ, or a cluster has no image.

    Source: MMT's code starts the classifiers of each epoch from these.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"labels {labels.shape} do not fit features {features.shape}")
    members = np.flatnonzero(labels != OUTLIER)
    sizes = np.bincount(labels[members])
    if not sizes.all():
        raise ValueError(f"cluster {int(np.argmin(sizes))} has no image; relabel without holes")
    weights = 1 / sizes[labels[members]]
    shape = (len(sizes), len(features))
    membership = csr_array((weights, (labels[members], members)), shape)
    mean = np.empty((len(sizes), features.shape[1]))
    for start in range(0, features.shape[1], _COLUMNS):  # a float64 copy of all may not fit
        block = slice(start, start + _COLUMNS)
        mean[:, block] = membership @ features[:, block].astype(np.float64)
    if normalize:
        mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return np.asarray(mean, np.float32)
