"""k-means labels and the automatic number of clusters."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from adapt.clustering.labels.kmeans import auto_clusters, cluster_kmeans
from adapt.errors import ClusteringError, DataError, NonFiniteFeaturesError
from adapt.runtime.disk_arrays import Scratch


def blobs(people: int, each: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    center = rng.normal(size=(people, 8)) * 10
    truth = np.repeat(np.arange(people), each)
    return (center[truth] + rng.normal(size=(len(truth), 8))).astype(np.float32), truth


def test_finds_separate_people() -> None:
    features, truth = blobs(12, 9)
    found = cluster_kmeans(features, 12, seed=1)
    assert adjusted_rand_score(truth, found.labels) == 1.0
    assert found.outlier_share == 0
    assert found.rule == "kmeans K=12"


def test_labels_minimize_the_distance_to_their_center() -> None:
    features, _ = blobs(6, 9, seed=3)
    found = cluster_kmeans(features, 9, seed=1)
    center = np.stack([features[found.labels == k].mean(axis=0) for k in range(9)])
    distance = np.linalg.norm(features[:, None] - center[None], axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), found.labels)


def test_images_between_clusters_move_until_none_is_nearer_to_another() -> None:
    # Without gaps, a partition settles only after many moves of its centers.
    features = np.random.default_rng(0).uniform(size=(300, 2)).astype(np.float32)
    found = cluster_kmeans(features, 8, seed=1, starts=1)
    center = np.stack([features[found.labels == k].mean(axis=0) for k in range(8)])
    distance = np.linalg.norm(features[:, None] - center[None], axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), found.labels)


def test_the_best_of_several_starts_is_taken() -> None:
    features = np.random.default_rng(0).uniform(size=(200, 2)).astype(np.float32)

    def squared(**starts: Any) -> float:
        """Sum of squared distances to the centers, over four seeds."""
        total = 0.0
        for seed in range(4):
            found = cluster_kmeans(features, 10, seed=seed, **starts).labels
            total += sum(
                ((features[found == k] - features[found == k].mean(axis=0)) ** 2).sum()
                for k in range(10)
            )
        return total

    assert squared() < 0.98 * squared(starts=1)


def test_same_seed_same_labels() -> None:
    features = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    first = cluster_kmeans(features, 20, seed=7, starts=2)
    again = cluster_kmeans(features, 20, seed=7, starts=2)
    other = cluster_kmeans(features, 20, seed=8, starts=2)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).any()


def test_copies_are_allocated_by_the_caller(tmp_path: Path) -> None:
    """scikit-learn makes two of float64 by default: one to work in, one for its tolerance."""
    features = np.random.default_rng(0).normal(size=(5000, 128)).astype(np.float32)
    before = features.copy()
    expected = cluster_kmeans(features, 20, seed=1, starts=1)
    tracemalloc.start()
    try:
        found = cluster_kmeans(features, 20, seed=1, starts=1, allocate=Scratch(tmp_path).table)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < features.size * 4
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(features, before)


def test_every_image_its_own_cluster() -> None:
    features, _ = blobs(1, 5)
    assert cluster_kmeans(features, 5, seed=1).clusters == 5


def test_fewer_distinct_images_than_clusters() -> None:
    features = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    found = cluster_kmeans(features, 6, seed=1)
    assert found.clusters == 3
    assert "asked for 6" in found.rule


@pytest.mark.parametrize(("images", "clusters"), [(3, 4), (0, 1), (3, 0)])
def test_impossible_numbers_are_refused(images: int, clusters: int) -> None:
    with pytest.raises(ClusteringError, match="clusters"):
        cluster_kmeans(np.ones((images, 2), np.float32), clusters, seed=1)


def test_features_that_are_not_finite_are_refused() -> None:
    features, _ = blobs(2, 3)
    for wild in (np.nan, np.inf, 1e300):
        row = features.astype(np.float64)
        row[4, 1] = wild
        with pytest.raises(NonFiniteFeaturesError, match="row 4"):
            cluster_kmeans(row, 2, seed=1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no columns"):
        cluster_kmeans(features[:, :0], 2, seed=1)


@pytest.mark.parametrize(
    ("images", "per_batch", "expected"),
    [(12936, 16, 647), (100, 16, 16), (64, 16, 16), (40, 1, 2), (8, 1, 2)],
)
def test_auto_clusters_by_hand(images: int, per_batch: int, expected: int) -> None:
    assert auto_clusters(images, per_batch) == expected


@settings(max_examples=50)
@given(images=st.integers(0, 10**6), per_batch=st.integers(1, 64))
def test_auto_clusters_stays_in_its_bounds(images: int, per_batch: int) -> None:
    if images < 4 * max(2, per_batch):
        with pytest.raises(ClusteringError, match="cannot fill batches"):
            auto_clusters(images, per_batch)
    else:
        assert max(2, per_batch) <= auto_clusters(images, per_batch) <= images / 4
