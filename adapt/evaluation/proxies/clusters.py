"""Proxies of the clusters that a model's embeddings fall into, and of how stable these are.

Clusters are made as adaptation makes them: DBSCAN on the re-ranked distance, its radius found
from the crops; but as embedded, without camera centering, since searches compare embeddings as they
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.clustering.clusterer import Clusterer
from adapt.clustering.graph.radius import CUT
from adapt.clustering.labels.guards import label_agreement
from adapt.clustering.labels.silhouette import silhouette_of_each
from adapt.config import Clustering
from adapt.errors import ClusteringError
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings
from adapt.types import OUTLIER

SETTINGS = Clustering(algorithm="dbscan", camera_centering=False)

SAMPLE_SHARE = 0.8
"""Of the tracks (of the crops without one) in each of two resamples: of so many, 64 % of the crops
are in both."""


@dataclass(frozen=True)
class SiteClusters:
    """Clusters of all crops, and of two resamples by the same radius.

    labels: (N,) int64. silhouettes: (N,) float64, on the re-ranked distance. common: (M,) crops
    that are in both resamples; first, second: (M,) their labels there.
    """

    labels: NDArray[np.int64]
    silhouettes: NDArray[np.float64]
    common: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]

    @property
    def largest_share(self) -> float:
        """Share of all crops in the largest cluster."""
        clustered = self.labels[self.labels != OUTLIER]
        return float(np.bincount(clustered, minlength=1).max()) / max(len(self.labels), 1)


def cluster_site(
    feature_ND: NDArray[np.float32], sightings: Sightings, *, seed: int
) -> SiteClusters:
    """Cluster a site's crops, and two random shares of its tracks.

    Where no radius tells the crops apart, every crop is an outlier and every silhouette 0: that is
    what the model says of them.

    Args:
        feature_ND: rows of length 1.
        sightings: of the same crops.
        seed: of the resamples: the same for each model that is compared.
    """
    total = len(sightings)
    clusterer = Clusterer(SETTINGS, identities_per_batch=2, seed=seed)
    labels, silhouettes = np.full(total, OUTLIER), np.zeros(total)
    try:
        graph = clusterer.graph(feature_ND, sightings.cameras)
        labels = clusterer.label(graph).labels
        silhouettes = silhouette_of_each(graph.distances(CUT), labels)
    except ClusteringError:
        clusterer.radius = None
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(2):
        rows = _resample(sightings.groups, rng)
        part = np.full(total, OUTLIER)
        if clusterer.radius is not None:
            part[rows] = _labels(clusterer, feature_ND[rows], sightings.cameras[rows])
        drawn = np.zeros(total, bool)
        drawn[rows] = True
        found.append((drawn, part))
    common = np.flatnonzero(found[0][0] & found[1][0])
    return SiteClusters(labels, silhouettes, common, found[0][1][common], found[1][1][common])


def cluster_proxies(found: SiteClusters, sightings: Sightings) -> Mapping[str, ProxyValue | None]:
    """Figures of a site's clusters, by name.

        silhouette    mean silhouette, 0 for outliers
        clustered     share of crops that are in a cluster
        cross_camera  share of crops that are in a cluster with crops of another camera
        stability     mean over crops in both resamples, 0 where i is an outlier in one of them:
                      |A(i) n B(i)| / |A(i) u B(i)|, i's clusters in the two, of common crops
        agreement     adjusted Rand index of the two, over crops clustered in both; no parts

    Returns:
        All of them; `cross_camera` None with one camera, `agreement` None without such crops,
        `stability` None without common crops.

    Source: silhouette: Rousseeuw 1987. stability: Hennig, Cluster-wise assessment of cluster
        stability, Comput. Stat. Data Anal. 52 (2007), as a mean over crops. agreement: Hubert and
        Arabie 1985.
    """
    crops = np.arange(len(sightings))
    agreement = label_agreement(found.first, found.second)
    both = (found.first != OUTLIER) & (found.second != OUTLIER)
    several = sightings.camera_count > 1
    return {
        "silhouette": ProxyValue.mean_of(found.silhouettes, crops),
        "clustered": ProxyValue.mean_of((found.labels != OUTLIER).astype(np.float64), crops),
        "cross_camera": ProxyValue.mean_of(_cross_camera(found.labels, sightings.cameras), crops)
        if several
        else None,
        "stability": ProxyValue.mean_of(shared_share(found.first, found.second), found.common)
        if len(found.common)
        else None,
        "agreement": None if agreement is None else ProxyValue(agreement, measured=int(both.sum())),
    }


def shared_share(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """(M,) |A(i) n B(i)| / |A(i) u B(i)| of two labellings (M,); 0 where i is an outlier in one."""
    both = (first != OUTLIER) & (second != OUTLIER)
    found = np.zeros(len(first))
    if both.any():
        pairs = np.stack([first, second])[:, both]
        _, code, shared = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
        size = [np.bincount(labels[labels != OUTLIER]) for labels in (first, second)]
        shared = shared[code.ravel()]
        found[both] = shared / (size[0][pairs[0]] + size[1][pairs[1]] - shared)
    return found


def _cross_camera(labels: NDArray[np.int64], cameras: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) 1 for crops in a cluster of two or more cameras."""
    kept = labels != OUTLIER
    seen = np.unique(np.stack([labels[kept], cameras[kept]]), axis=1)
    several = np.bincount(seen[0], minlength=1) >= 2
    return np.where(kept, several[np.maximum(labels, 0)], False).astype(np.float64)


def _resample(groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Crops of a random share of the groups, in order."""
    count = int(groups.max(initial=-1)) + 1
    drawn = rng.permutation(count)[: round(SAMPLE_SHARE * count)]
    return np.flatnonzero(np.isin(groups, drawn))


def _labels(
    clusterer: Clusterer, feature_ND: NDArray[np.float32], cameras: NDArray[np.int64]
) -> NDArray[np.int64]:
    try:
        return clusterer(feature_ND, cameras).labels
    except ClusteringError:
        return np.full(len(cameras), OUTLIER)
