"""HDBSCAN on a sparse matrix: against the hdbscan library on the dense one; odd graphs."""

from __future__ import annotations

from typing import Literal

import hdbscan
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score

from adapt.clustering.graph.jaccard import jaccard_distance
from adapt.clustering.labels.hdbscan import cluster_hdbscan
from adapt.errors import ClusteringError
from models.wording import plural


def library(
    dense: NDArray[np.float64], min_samples: int, min_cluster_size: int
) -> NDArray[np.int64]:
    estimator = hdbscan.HDBSCAN(
        metric="precomputed", min_samples=min_samples, min_cluster_size=min_cluster_size
    )
    return estimator.fit_predict(dense)


def full(distances: csr_array) -> NDArray[np.float64]:
    """Stored values, 1 elsewhere."""
    dense = np.ones(distances.shape)
    coo = distances.tocoo()
    dense[coo.row, coo.col] = coo.data
    return dense


def sparse(dense: NDArray[np.float64]) -> csr_array:
    """Pairs below 1, zeros stored."""
    row, column = np.nonzero(dense < 1)
    return csr_array((dense[row, column].astype(np.float32), (row, column)), dense.shape)


def assert_same_partition(one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """The same but for the names of clusters."""
    np.testing.assert_array_equal(one == -1, other == -1)
    assert one.max() == other.max()
    assert len(set(zip(one, other, strict=True))) == len(set(one))


def on_a_line(*at: float) -> NDArray[np.float64]:
    where = np.array(at)
    return np.clip(np.abs(where[:, None] - where[None]), 0, 1)


def people(
    noise: float, count: int = 40, each: int = 15
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(3)
    truth = np.repeat(np.arange(count), each)
    features = rng.normal(size=(count, 16))[truth] + noise * rng.normal(size=(len(truth), 16))
    return features.astype(np.float32), truth


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.4, 0.7, 1.0])
@pytest.mark.parametrize(("variant", "k1"), [("classic", 20), ("faiss", 30)])
@pytest.mark.parametrize("min_samples", [4, 8])
def test_equals_the_library_on_the_dense_matrix(
    min_samples: int, variant: Literal["classic", "faiss"], k1: int, noise: float
) -> None:
    features, _ = people(noise)
    features[[20, 21, 300]] = features[0]
    distances = jaccard_distance(features, k1=k1, k2=6, variant=variant)
    found = cluster_hdbscan(distances, min_samples=min_samples, min_cluster_size=8)
    wanted = library(full(distances), min_samples, 8)
    assert found.clusters > 2
    assert_same_partition(found.labels, wanted)


def test_finds_separate_people() -> None:
    features, truth = people(0.3)
    distances = jaccard_distance(features, k1=20, k2=6, variant="classic")
    found = cluster_hdbscan(distances, min_samples=8, min_cluster_size=8)
    assert adjusted_rand_score(truth, found.labels) > 0.98
    assert found.clusters == 40
    assert found.rule == "hdbscan min_samples=8 min_cluster_size=8"
    assert found.labels.dtype == np.int64
    firsts = [int(np.argmax(found.labels == k)) for k in range(40)]
    assert firsts == sorted(firsts), "clusters are numbered by their first image"


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), min_samples=st.integers(1, 6))
def test_equals_the_library_on_other_matrices(seed: int, min_samples: int) -> None:
    rng = np.random.default_rng(seed)
    at = rng.normal(size=(80, 2)) * 0.15 + rng.normal(size=(8, 2)).repeat(10, axis=0)
    dense = np.linalg.norm(at[:, None] - at[None], axis=2).astype(np.float32).astype(np.float64)
    dense = dense.clip(max=1)  # blobs at 1 from each other: the graph falls apart
    found = cluster_hdbscan(sparse(dense), min_samples=min_samples, min_cluster_size=5)
    assert_same_partition(found.labels, library(dense, min_samples, 5))


def test_parts_without_a_pair_between_them() -> None:
    dense = on_a_line(0, 0.1, 0.2, 5, 5.1, 5.2, 20, 20.1, 20.3)
    found = cluster_hdbscan(sparse(dense), min_samples=1, min_cluster_size=3)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    # an image at 1 from all others goes where the library puts it
    dense = on_a_line(0, 0.1, 0.2, 5, 5.1, 5.2, 9, 20, 20.1, 20.3, 30)
    found = cluster_hdbscan(sparse(dense), min_samples=1, min_cluster_size=3)
    assert_same_partition(found.labels, library(dense, 1, 3))


def test_rows_shorter_than_min_samples() -> None:
    # The pair in the middle has no third image: with two neighbors asked for it is not dense.
    dense = on_a_line(0, 0.1, 0.2, 0.3, 5, 5.01, 9, 9.1, 9.2, 9.3)
    found = cluster_hdbscan(sparse(dense), min_samples=2, min_cluster_size=3)
    assert found.labels.tolist() == [0, 0, 0, 0, -1, -1, 1, 1, 1, 1]
    pair = cluster_hdbscan(sparse(dense), min_samples=1, min_cluster_size=2)
    assert pair.labels.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_copies() -> None:
    dense = on_a_line(*[0.0] * 5, *[3.0] * 6, 0.4, 3.4, 7)
    found = cluster_hdbscan(sparse(dense), min_samples=2, min_cluster_size=4)
    labels = found.labels.tolist()
    assert labels[:5] == [0] * 5
    assert labels[5:11] == [1] * 6
    assert labels[13] == -1


def test_the_matrix_is_left_alone() -> None:
    distances = sparse(on_a_line(0, 0.1, 0.2, 0.9, 0.8, 0.7))
    before = distances.copy()
    cluster_hdbscan(distances, min_samples=1, min_cluster_size=3)
    np.testing.assert_array_equal(distances.data, before.data)
    np.testing.assert_array_equal(distances.indices, before.indices)


@pytest.mark.parametrize("images", [8, 30])
def test_images_all_the_same_or_all_apart(images: int) -> None:
    same = cluster_hdbscan(sparse(np.zeros((images, images))), min_samples=4, min_cluster_size=8)
    assert len(np.unique(same.labels)) == 1
    apart = cluster_hdbscan(sparse(1 - np.eye(images)), min_samples=4, min_cluster_size=8)
    assert apart.clusters == 0


@pytest.mark.parametrize(
    ("images", "samples", "size"), [(0, 1, 2), (1, 1, 2), (3, 4, 2), (3, 2, 4)]
)
def test_too_few_images_are_refused(images: int, samples: int, size: int) -> None:
    with pytest.raises(ClusteringError, match=f"{plural(images, 'image')} cannot form clusters of"):
        cluster_hdbscan(
            sparse(np.zeros((images, images))), min_samples=samples, min_cluster_size=size
        )


@pytest.mark.parametrize(("samples", "size"), [(0, 8), (4, 1)])
def test_settings_out_of_range_are_refused(samples: int, size: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        cluster_hdbscan(sparse(np.zeros((9, 9))), min_samples=samples, min_cluster_size=size)
