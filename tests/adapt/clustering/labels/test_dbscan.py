"""DBSCAN labels on a sparse matrix: by hand, against a reference, bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.clustering.labels.dbscan import cluster_dbscan
from adapt.errors import ClusteringError


def sparse(dense: NDArray[np.float64], longest: float) -> csr_array:
    """Pairs up to `longest`, zeros stored."""
    rows, columns = np.nonzero(dense <= longest)
    return csr_array((dense[rows, columns].astype(np.float32), (rows, columns)), dense.shape)


def reference(dense: NDArray[np.float64], radius: float, min_samples: int) -> list[int]:
    """Grow clusters from one core image after the other."""
    near = dense <= radius
    core = near.sum(axis=1) >= min_samples
    labels = [-1] * len(dense)
    clusters = 0
    for start in range(len(dense)):
        if not core[start] or labels[start] != -1:
            continue
        todo = [start]
        while todo:
            i = todo.pop()
            if labels[i] != -1:
                continue
            labels[i] = clusters
            if core[i]:
                todo += list(np.flatnonzero(near[i]))
        clusters += 1
    return labels


def test_points_on_a_line_by_hand() -> None:
    # three together, a border point, a lonely one, two copies of one image and a neighbor
    at = np.array([0.00, 0.05, 0.10, 0.19, 0.50, 0.80, 0.80, 0.85])
    dense = np.abs(at[:, None] - at[None])
    found = cluster_dbscan(sparse(dense, 0.3), 0.1, 3)
    assert found.labels.tolist() == [0, 0, 0, 0, -1, 1, 1, 1]
    assert found.rule == "dbscan eps=0.100 min_samples=3"
    assert found.labels.dtype == np.int64


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    radius=st.sampled_from([0.02, 0.05, 0.1, 0.3]),
    min_samples=st.integers(1, 5),
)
def test_equals_the_reference(seed: int, radius: float, min_samples: int) -> None:
    at = np.random.default_rng(seed).integers(0, 40, (50, 2)) / 64  # exact, with duplicates
    dense = np.clip(np.abs(at[:, None] - at[None]).max(axis=2), 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cluster_dbscan(sparse(dense, 0.9), radius, min_samples)
    assert found.labels.tolist() == reference(dense, radius, min_samples)


@pytest.mark.parametrize(("above", "labels"), [(8e-7, [0, 0, 0]), (2e-5, [-1, -1, -1])])
def test_what_exceeds_the_radius_by_rounding_counts_as_equal(
    above: float, labels: list[int]
) -> None:
    dense = np.where(np.eye(3, dtype=bool), 0, 0.5 + above)
    assert cluster_dbscan(sparse(dense, 0.6), 0.5, 3).labels.tolist() == labels


def test_copies_of_one_image_are_one_cluster() -> None:
    assert cluster_dbscan(sparse(np.zeros((5, 5)), 1.0), 0.5, 4).labels.tolist() == [0] * 5


def test_the_matrix_is_left_alone() -> None:
    at = np.array([0.5, 0.1, 0.3, 0.2])
    distances = sparse(np.abs(at[:, None] - at[None]), 1.0)
    before = distances.copy()
    cluster_dbscan(distances, 0.25, 2)
    assert distances.indices.tolist() == before.indices.tolist()
    assert distances.data.tolist() == before.data.tolist()


def test_all_outliers_and_a_single_image() -> None:
    apart = csr_array((np.zeros(4), (np.arange(4), np.arange(4))), (4, 4))
    assert cluster_dbscan(apart, 0.5, 2).clusters == 0
    single = csr_array((np.zeros(1), ([0], [0])), (1, 1))
    assert cluster_dbscan(single, 0.5, 1).labels.tolist() == [0]
    assert cluster_dbscan(single, 0.5, 2).labels.tolist() == [-1]


@pytest.mark.parametrize("radius", [0.0, 1.0, float("nan")])
def test_radius_out_of_range_is_refused(radius: float) -> None:
    with pytest.raises(ClusteringError, match="radius"):
        cluster_dbscan(sparse(np.zeros((3, 3)), 1.0), radius, 2)


def test_no_images_are_refused() -> None:
    with pytest.raises(ClusteringError, match="no images"):
        cluster_dbscan(csr_array((0, 0)), 0.5, 2)
