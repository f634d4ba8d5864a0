"""Pseudo labels by k-means."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from adapt.errors import ClusteringError, DataError, NonFiniteFeaturesError
from adapt.types import FloatAllocator, PseudoLabels, allocate_floats
from models.wording import plural

IMAGES_PER_IDENTITY = 20
"""Images of each person that `auto_clusters` expects at a site."""

MIN_IMAGES_PER_CLUSTER = 4
"""`auto_clusters` never asks for smaller clusters on average."""

KMEANS_ROWS = 4096
"""Rows looked at and copied at a time."""


def cluster_kmeans(
    features: NDArray[np.float32],
    clusters: int,
    *,
    seed: int,
    starts: int = 10,
    iterations: int = 300,
    allocate: FloatAllocator = allocate_floats,
) -> PseudoLabels:
    """Partition images into k-means clusters: all images are used and none is an outlier.

        argmin over labels y and centers c of sum_i |f_i - c_{y_i}|^2

    k-means++ seeding, Lloyd iterations, the best of `starts` runs. A cluster that runs empty is
    moved to the farthest image; where images repeat so often that there are fewer different ones
    than clusters, fewer clusters are returned and `rule` says so.

    Args:
        features: (N, D) floating point; used as given, so a mean of two networks' embeddings
            stays un-normalized as in the authors' code.
        clusters: M_t of the paper, 1..N.
        seed: seeds every start; the same seed on the same machine gives the same labels.
        starts: independent runs, >= 1.
        iterations: most Lloyd iterations of one run, >= 1.
        allocate: allocates a float64 copy of the features.

    Returns:
        Labels 0..K-1 without holes, K <= clusters.

    Raises:
        DataError: features have no columns. NonFiniteFeaturesError: they hold NaN or infinity.
        ClusteringError: there are fewer images than clusters, or clusters < 1.

    Source: MMT (Ge et al., ICLR 2020), section 4.2.2; starts and iterations from its code.
    """
    if not features.shape[1]:
        raise DataError(f"features of shape {features.shape} have no columns: extract them again")
    _refuse_non_finite(features)
    if not 1 <= clusters <= len(features):
        raise ClusteringError(
            f"{plural(len(features), 'image')} cannot form {plural(clusters, 'cluster')}: set "
            "clusters to 1..N (about the number of people) or add crops"
        )
    estimator = KMeans(
        clusters,
        n_init=starts,
        max_iter=iterations,
        tol=0,  # until no label changes: a tolerance is relative to a variance that takes a copy
        random_state=seed,
        copy_x=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points: see `rule`
        found = estimator.fit_predict(_in_float64(features, allocate))
    kept, labels = np.unique(found, return_inverse=True)
    rule = f"kmeans K={len(kept)}"
    if len(kept) < clusters:
        rule += f" (asked for {clusters}: too many images are the same)"
    return PseudoLabels(labels.astype(np.int64), rule)


def _refuse_non_finite(features: NDArray[np.floating]) -> None:
    bad: list[np.integer] = []
    for start in range(0, len(features), KMEANS_ROWS):
        block = features[start : start + KMEANS_ROWS]
        with np.errstate(over="ignore"):  # beyond float32 is infinity, too, as for the graph
            finite = np.isfinite(block.astype(np.float32, copy=False)).all(axis=1)
        bad.extend(start + np.flatnonzero(~finite))
    if bad:
        raise NonFiniteFeaturesError(int(bad[0]), len(bad))


def _in_float64(features: NDArray[np.floating], allocate: FloatAllocator) -> NDArray[np.float64]:
    """A copy that scikit-learn may work in.

    In float64 it seeds 10 times faster (it converts float32 anew for each center), and the order in
    which threads add up does not show in the labels.
    """
    rows, columns = features.shape
    copy = allocate((rows, 2 * columns)).view(np.float64)  # two float32 hold a float64
    for start in range(0, rows, KMEANS_ROWS):
        copy[start : start + KMEANS_ROWS] = features[start : start + KMEANS_ROWS]
    return copy


def auto_clusters(images: int, identities_per_batch: int) -> int:
    """Choose the number of k-means clusters when the number of people is unknown.

        K = N / 20 clipped to [max(2, P), N / 4]

    Args:
        images: N >= 0.
        identities_per_batch: P >= 1, what the sampler needs.

    Returns:
        K, with max(2, P) <= K <= N / 4.

    Raises:
        ClusteringError: N / 4 < max(2, P).
    """
    min_k, max_k = max(2, identities_per_batch), images // MIN_IMAGES_PER_CLUSTER
    if max_k < min_k:
        raise ClusteringError(
            f"{plural(images, 'image')} cannot fill batches of "
            f"{plural(identities_per_batch, 'identity', 'identities')}: add "
            f"crops (at least {min_k * MIN_IMAGES_PER_CLUSTER}) or lower the identities per batch"
        )
    return min(max(round(images / IMAGES_PER_IDENTITY), min_k), max_k)
