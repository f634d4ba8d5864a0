"""Cluster centers: by hand, as a property, against a reference, pinned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.clustering.labels.centers import cluster_centers


def test_by_hand() -> None:
    features = np.array([[1, 0], [3, 0], [9, 9], [0, -2]], np.float32)
    labels = np.array([0, 0, -1, 1])
    mean = cluster_centers(features, labels, normalize=False)
    assert mean.tolist() == [[2, 0], [0, -2]]
    assert mean.dtype == np.float32
    unit = cluster_centers(features, labels, normalize=True)
    assert unit.tolist() == [[1, 0], [0, -1]]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), clusters=st.integers(1, 6))
def test_equals_the_reference_in_any_order_and_layout(seed: int, clusters: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[np.arange(clusters), rng.integers(-1, clusters, 20)])
    features = np.asfortranarray(rng.normal(size=(len(labels), 5)).astype(np.float32))
    expected = np.stack([features[labels == k].mean(axis=0) for k in range(clusters)])
    found = cluster_centers(features, labels, normalize=False)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    order = rng.permutation(len(labels))
    shuffled = cluster_centers(features[order], labels[order], normalize=False)
    np.testing.assert_allclose(shuffled, found, atol=1e-6)
    unit = cluster_centers(features, labels, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)


def test_pinned_value() -> None:
    features = np.sin(np.arange(12, dtype=np.float32)).reshape(6, 2)
    unit = cluster_centers(features, np.array([0, 1, 0, 1, 1, -1]), normalize=True)
    np.testing.assert_allclose(unit, [[-0.988170, -0.153361], [0.800997, 0.598668]], atol=1e-6)


def test_opposite_features_give_a_zero_center_not_nan() -> None:
    features = np.array([[1, 0], [-1, 0]], np.float32)
    assert cluster_centers(features, np.array([0, 0]), normalize=True).tolist() == [[0, 0]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        cluster_centers(np.ones((3, 2), np.float32), np.array([0, 1]), normalize=True)
    with pytest.raises(ValueError, match="cluster 0 has no image"):
        cluster_centers(np.ones((2, 2), np.float32), np.array([1, 1]), normalize=True)
