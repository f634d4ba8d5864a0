"""From features to pseudo labels in one call: center, measure, cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.clustering.camera_centering import center_cameras
from adapt.clustering.graph.camera_bias import camera_bias
from adapt.clustering.graph.jaccard import JaccardGraph, search_on
from adapt.clustering.graph.neighbors import UnitRows, nearest_neighbors
from adapt.clustering.graph.radius import LARGEST, radius_by_pairs, radius_by_rho
from adapt.clustering.graph.rows import DistanceGraph
from adapt.clustering.labels.auto_radius import auto_radius
from adapt.clustering.labels.dbscan import RADIUS_ROUNDING, cluster_dbscan
from adapt.clustering.labels.hdbscan import REACH, cluster_hdbscan
from adapt.clustering.labels.kmeans import auto_clusters, cluster_kmeans
from adapt.config import Clustering
from adapt.errors import ConfigError, DataError
from adapt.runtime.timing import Stages
from adapt.types import FloatAllocator, PseudoLabels, allocate_floats

log = logging.getLogger("resight")

BIAS_NEIGHBORS = 11
"""Neighbors that `camera_centering = auto` looks at, the image itself included."""

MIN_BIAS = 0.1
"""Camera bias from which on `auto` centers."""

MIN_CROPS_TO_CENTER = 32
"""Crops that each of two cameras needs before `auto` centers by their means."""


class Clusterer:
    """Clusters features the way a recipe says.

    The radius of DBSCAN is found in the first call and kept, as in UDAP, SSG and MMT: a radius
    that followed the features would hide that they collapse.
    """

    def __init__(
        self,
        settings: Clustering,
        *,
        identities_per_batch: int,
        seed: int,
        device: torch.device | None = None,
        allocate: FloatAllocator = allocate_floats,
    ) -> None:
        """Args:
        identities_per_batch: P, the minimum of clusters that `clusters = auto` may ask for.
        device: a GPU for the neighbor graph; all CPU cores unless given.
        allocate: allocates copies of the features.
        """
        self._settings = settings
        self._identities = identities_per_batch
        self._seed = seed
        self._device = device
        self._allocate = allocate
        self.stages = Stages()
        self.radius: float | None = None

    def __call__(self, features: NDArray[np.float32], cameras: NDArray[np.int64]) -> PseudoLabels:
        """features: (N, D) floating point, finite; cameras: (N,) codes."""
        if self._settings.algorithm == "kmeans":
            return self._kmeans(features, cameras)
        return self.label(self.graph(features, cameras))

    def graph(self, features: NDArray[np.float32], cameras: NDArray[np.int64]) -> JaccardGraph:
        """Measure distances; for methods that change them before they are clustered."""
        _check(features, cameras)
        centering = self._settings.camera_centering
        if centering is True:
            return self._measure(center_cameras(features, cameras, self._allocate))
        graph = self._measure(features)
        if centering == "auto" and _cameras_show(graph.near.rank, cameras):
            return self._measure(center_cameras(features, cameras, self._allocate))
        return graph

    def label(self, graph: DistanceGraph) -> PseudoLabels:
        """Cluster distances by DBSCAN or HDBSCAN.

        Raises ConfigError for k-means.
        """
        self.require_distances()
        return (
            self._hdbscan(graph) if self._settings.algorithm == "hdbscan" else self._dbscan(graph)
        )

    def require_distances(self) -> None:
        """Raise ConfigError where `label` cannot be used: k-means needs features."""
        if self._settings.algorithm == "kmeans":
            raise ConfigError(
                "this method clusters distances and k-means features: set clustering.algorithm to "
                "dbscan or hdbscan"
            )

    def state_dict(self) -> dict[str, NDArray[np.float64]]:
        """The radius, once it was found, for a checkpoint."""
        return {} if self.radius is None else {"radius": np.array(self.radius)}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state_dict` returned."""
        self.radius = float(state["radius"]) if "radius" in state else None

    def _measure(self, features: NDArray[np.float32]) -> JaccardGraph:
        s = self._settings
        return JaccardGraph(
            features, k1=s.k1, k2=s.k2, variant=s.variant, device=self._device, stages=self.stages
        )

    def _kmeans(self, features: NDArray[np.float32], cameras: NDArray[np.int64]) -> PseudoLabels:
        _check(features, cameras)
        centering = self._settings.camera_centering
        if centering == "auto" and _several(cameras):
            with self.stages("neighbors"):
                search = search_on(self._device)
                near = nearest_neighbors(UnitRows(features), BIAS_NEIGHBORS, search=search)
            centering = _cameras_show(near.rank, cameras)
        if centering is True:
            features = center_cameras(features, cameras, self._allocate)
        wanted = self._settings.clusters
        clusters = auto_clusters(len(features), self._identities) if wanted == "auto" else wanted
        with self.stages("clusters"):
            return cluster_kmeans(features, clusters, seed=self._seed, allocate=self._allocate)

    def _dbscan(self, graph: DistanceGraph) -> PseudoLabels:
        warnings: tuple[str, ...] = ()
        if self.radius is None:
            with self.stages("radius"):
                self.radius, warnings = self._find_radius(graph)
        distances = graph.distances(self.radius + RADIUS_ROUNDING)
        with self.stages("clusters"):
            labels = cluster_dbscan(distances, self.radius, self._settings.min_samples)
        rule = f"{labels.rule} ({self._radius_rule()})"
        return replace(labels, rule=rule, warnings=warnings, radius=self.radius)

    def _find_radius(self, graph: DistanceGraph) -> tuple[float, tuple[str, ...]]:
        """The radius, and warnings about it."""
        s = self._settings
        if s.radius == "auto":
            choice = auto_radius(graph, min_samples=s.min_samples, neighbors=s.k1)
            return choice.radius, tuple(
                f"radius {choice.radius:.3f} is in doubt: {doubt}" for doubt in choice.doubts
            )
        if s.radius == "pairs":
            radius, lower = radius_by_pairs(graph, s.pairs_per_image), "pairs_per_image"
        elif s.radius == "rho":
            radius, lower = radius_by_rho(graph, s.rho), "rho"
        elif s.radius > LARGEST:
            radius, lower = LARGEST, "it"
        else:
            return s.radius, ()
        if radius < LARGEST:
            return radius, ()
        odd = f"radius cut to {LARGEST:g}: almost all pairs share no neighbors; lower {lower}"
        return LARGEST, (odd,)

    def _radius_rule(self) -> str:
        s = self._settings
        rules = {
            "auto": "best silhouette",
            "pairs": f"{s.pairs_per_image:g} pairs per image",
            "rho": f"rho {s.rho:g}",
        }
        return rules.get(str(s.radius), "given")

    def _hdbscan(self, graph: DistanceGraph) -> PseudoLabels:
        s = self._settings
        distances = graph.distances(REACH)
        with self.stages("clusters"):
            return cluster_hdbscan(
                distances, min_samples=s.min_samples, min_cluster_size=s.min_cluster_size
            )


def _check(features: NDArray[np.float32], cameras: NDArray[np.int64]) -> None:
    if cameras.shape != features.shape[:1]:
        raise DataError(f"{len(cameras)} cameras do not fit {len(features)} features")


def _several(cameras: NDArray[np.int64]) -> bool:
    return int((np.bincount(cameras) >= MIN_CROPS_TO_CENTER).sum()) >= 2


def _cameras_show(rank: NDArray[np.int32], cameras: NDArray[np.int64]) -> bool:
    """Decide `camera_centering = auto` by the nearest neighbors (N, K) of each image."""
    if not _several(cameras):
        return False
    bias = camera_bias(rank[:, :BIAS_NEIGHBORS], cameras)
    center = bias > MIN_BIAS
    log.info("camera bias %.2f: %s", bias, "centered per camera" if center else "as extracted")
    return center
