"""DBSCAN labels of the sparse graph, point by point those of plain dense code."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from adapt.clustering.graph.jaccard import JaccardGraph
from adapt.clustering.graph.neighbors import UnitRows, nearest_neighbors
from adapt.clustering.labels.dbscan import cluster_dbscan

Variant = Literal["classic", "faiss"]

IMAGES = 1000


def dense_jaccard(
    features: NDArray[np.floating], k1: int, k2: int, variant: Variant
) -> NDArray[np.float64]:
    """The Jaccard distance as methods print it: N x N, float64, a full sort."""
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    images = len(unit)
    squared = np.stack([((unit - row) ** 2).sum(axis=1) for row in unit])
    first = squared.copy()
    np.fill_diagonal(first, -1)
    rank = np.argsort(first, axis=1, kind="stable")

    def reciprocal(entries: int) -> NDArray[np.bool_]:
        near = np.zeros((images, images), bool)
        np.put_along_axis(near, rank[:, :entries], True, axis=1)
        return near & near.T

    full = reciprocal(k1 + 1 if variant == "classic" else k1)
    half = reciprocal(round(k1 / 2) + 1)
    members = full.copy()
    for i in range(images):
        for c in np.flatnonzero(full[i]):
            if 3 * (half[c] & full[i]).sum() > 2 * half[c].sum():
                members[i] |= half[c]
    weight = squared / squared.max(axis=1, keepdims=True) if variant == "classic" else squared
    encoding = np.where(members, np.exp(-weight), 0)
    encoding /= encoding.sum(axis=1, keepdims=True)
    encoding = encoding[rank[:, :k2]].mean(axis=1)
    jaccard = np.empty((images, images))
    for i, row in enumerate(encoding):
        used = np.flatnonzero(row)
        shared = np.minimum(encoding[:, used], row[used]).sum(axis=1)
        jaccard[i] = np.maximum(1 - shared / (2 - shared), 0)
    return jaccard


def test_there_are_hubs() -> None:
    near = nearest_neighbors(UnitRows(crops(1.2)), 21)
    listed = np.sort(np.bincount(near.rank.ravel(), minlength=IMAGES))
    assert listed[-5] > 4 * np.median(listed)


def crops(noise: float) -> NDArray[np.float32]:
    """People of 2 to 40 images; 40 images are copies and 5 are hubs, near the mean of all."""
    rng = np.random.default_rng(17)
    person = np.repeat(np.arange(500), rng.integers(2, 41, 500))[:IMAGES]
    features = rng.normal(size=(500, 32))[person] + 0.5  # all on one side, as behind a ReLU
    features += noise * rng.normal(size=features.shape)
    hubs = rng.choice(IMAGES, 5, replace=False)
    features[hubs] = features.mean(axis=0) + 0.02 * rng.normal(size=(5, 32))
    copies = rng.choice(np.setdiff1d(np.arange(IMAGES), hubs), (2, 40), replace=False)
    features[copies[0]] = features[copies[1]]
    features[copies[0, :10]] = features[copies[0, 0]]  # more copies than k2
    return features.astype(np.float32)


@pytest.mark.parametrize("noise", [0.7, 1.2])
@pytest.mark.parametrize(("variant", "k1"), [("classic", 20), ("faiss", 30)])
def test_labels_are_those_of_dense_code(variant: Variant, k1: int, noise: float) -> None:
    features = crops(noise)
    wanted = dense_jaccard(features, k1, 6, variant)
    graph = JaccardGraph(features, k1=k1, k2=6, variant=variant)
    whole = graph.distances(1.0).toarray()
    np.testing.assert_allclose(whole[whole > 0], wanted[whole > 0], atol=2e-6)
    assert (wanted[whole == 0] < 2e-6).sum() + (wanted[whole == 0] == 1).sum() == (whole == 0).sum()
    # Not 0.5: two images that share four of six neighbors are exactly there, and rounding decides.
    for radius in (0.2, 0.3, 0.4, 0.55, 0.7):
        near = JaccardGraph(features, k1=k1, k2=6, variant=variant).distances(radius)
        plain = DBSCAN(eps=radius, min_samples=4, metric="precomputed").fit_predict(wanted)
        found = cluster_dbscan(near, radius, 4)
        np.testing.assert_array_equal(found.labels, plain)
        assert plain.max() > 5
