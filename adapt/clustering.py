"""From features to pseudo labels in one call: centre, measure, cluster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adapt.cameras import center_cameras
from adapt.config import Clustering
from adapt.graph.jaccard import jaccard_distance
from adapt.graph.radius import radius_by_pairs, radius_by_rho
from adapt.labels.dbscan import cluster_dbscan
from adapt.labels.kmeans import auto_clusters, cluster_kmeans
from adapt.types import PseudoLabels


class Clusterer:
    """Clusters features the way a recipe says.

    The radius of DBSCAN is found in the first call and kept, as in UDAP, SSG and MMT: a radius
    that followed the features would hide that they collapse.
    """

    def __init__(self, settings: Clustering, *, identities_per_batch: int, seed: int) -> None:
        """identities_per_batch: P, the fewest clusters that `clusters = auto` may ask for."""
        self._settings = settings
        self._identities = identities_per_batch
        self._seed = seed
        self.radius: float | None = None

    def __call__(self, features: NDArray[np.float32], cameras: NDArray[np.int64]) -> PseudoLabels:
        """features: (N, D) float32, finite; cameras: (N,) codes."""
        settings = self._settings
        if settings.camera_centering:
            features = center_cameras(features, cameras)
        if settings.algorithm == "kmeans":
            return self._kmeans(features)
        return self._dbscan(features)

    def _kmeans(self, features: NDArray[np.float32]) -> PseudoLabels:
        wanted = self._settings.clusters
        clusters = auto_clusters(len(features), self._identities) if wanted == "auto" else wanted
        return cluster_kmeans(features, clusters, seed=self._seed)

    def _dbscan(self, features: NDArray[np.float32]) -> PseudoLabels:
        s = self._settings
        distances = jaccard_distance(features, k1=s.k1, k2=s.k2, variant=s.variant)
        if self.radius is None:
            if s.radius == "pairs":
                self.radius = radius_by_pairs(distances, s.pairs_per_image)
            elif s.radius == "rho":
                self.radius = radius_by_rho(distances, s.rho)
            else:
                self.radius = s.radius
        labels = cluster_dbscan(distances, self.radius, s.min_samples)
        origin = {"pairs": f"{s.pairs_per_image:g} pairs per image", "rho": f"rho {s.rho:g}"}
        return replace(labels, rule=f"{labels.rule} ({origin.get(str(s.radius), 'given')})")
