"""Silhouette on a sparse matrix: by hand, against scikit-learn on the dense one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import silhouette_samples

from adapt.clustering.labels.silhouette import silhouette, silhouette_of_each


def sparse(dense: NDArray[np.floating]) -> csr_array:
    """Pairs below 1, the diagonal's zeros stored."""
    row, column = np.nonzero(dense < 1)
    return csr_array((dense[row, column].astype(np.float32), (row, column)), dense.shape)


def by_hand(labels: list[int]) -> float:
    dense = np.ones((5, 5))
    for i, j, value in ((0, 1, 0.25), (2, 3, 0.5), (1, 2, 0.75), (3, 4, 0.125)):
        dense[i, j] = dense[j, i] = value
    np.fill_diagonal(dense, 0)
    return silhouette(sparse(dense), np.array(labels, np.int64))


def test_by_hand() -> None:
    # 0: a 1/4, b 1; 1: a 1/4, b (3/4 + 1) / 2; 2: a 1/2, b (1 + 3/4) / 2; 3: a 1/2, b 1
    pairs = [1 - 0.25, 1 - 0.25 / 0.875, 1 - 0.5 / 0.875, 0.5]
    assert by_hand([0, 0, 1, 1, -1]) == pytest.approx(sum(pairs) / 5)
    # 4 in a cluster of one counts 0, but it is the nearest other cluster of 3: b 1/8
    pairs[3] = 0.125 / 0.5 - 1
    assert by_hand([0, 0, 1, 1, 2]) == pytest.approx(sum(pairs) / 5)
    # one cluster alone: nothing tells whether it should be one
    assert by_hand([-1, -1, -1, 0, 0]) == 0


def test_nothing_is_clustered() -> None:
    assert by_hand([-1] * 5) == 0
    assert by_hand([0, 1, 2, 3, 4]) == 0
    assert silhouette(csr_array((0, 0)), np.zeros(0, np.int64)) == 0


def test_copies_of_two_images() -> None:
    dense = np.kron(np.array([[0, 1], [1, 0]]), np.ones((3, 3)))
    assert silhouette(sparse(dense), np.repeat([0, 1], 3)) == 1
    assert silhouette(sparse(np.zeros((4, 4))), np.array([0, 0, 1, 1])) == 0


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), clusters=st.integers(2, 9), outliers=st.sampled_from([0, 7]))
def test_equals_scikit_learn(seed: int, clusters: int, outliers: int) -> None:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((40, 40)) * 2, 1).clip(max=1)  # half of the pairs are at 1
    dense = (upper + upper.T).astype(np.float32).astype(np.float64)
    labels = rng.permutation(np.r_[np.arange(clusters), rng.integers(0, clusters, 40 - clusters)])
    labels[:outliers] = -1
    _, labels[outliers:] = np.unique(labels[outliers:], return_inverse=True)
    kept = labels != -1
    if labels.max() < 1:
        return
    samples = silhouette_samples(dense[np.ix_(kept, kept)], labels[kept], metric="precomputed")
    assert silhouette(sparse(dense), labels) == pytest.approx(samples.sum() / 40, abs=1e-6)
    each = silhouette_of_each(sparse(dense), labels)
    assert each[kept] == pytest.approx(samples, abs=1e-6)
    assert not each[~kept].any()


def test_each_without_clusters_is_zero() -> None:
    assert silhouette_of_each(sparse(np.zeros((3, 3))), np.full(3, -1)).tolist() == [0, 0, 0]
