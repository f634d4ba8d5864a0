"""Part `kmeans`: our k-means beside faiss's."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import faiss
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from adapt.clustering.labels.kmeans import cluster_kmeans
from benchmarks.graph.sites import PER_PERSON, site
from benchmarks.graph.tables import head, line, spread

PER_CLUSTER = 20
"""Images for each cluster asked for, as in `adapt.clustering.labels.kmeans.auto_clusters`."""

STARTS = 10
ITERATIONS = 25
"""faiss's default; ours stops by itself, at 300 at the latest."""

SEEDINGS = {"random": "RANDOM", "k-means++": "KMEANS_PLUS_PLUS"}
"""Of faiss, by the end of its names for them; older ones only have `random`."""

Codes = NDArray[np.int64]
KMeans = Callable[[NDArray[np.float32], int, int], Codes]
"""Features, number of clusters and seed to labels."""


def kmeans_library(options: argparse.Namespace) -> None:
    """Run our k-means and faiss's in turn on the same features, each repeat with its own seed."""
    codes: dict[str, KMeans] = {"ours": _ours}
    for name, method in SEEDINGS.items():
        if hasattr(faiss, f"ClusteringInitMethod_{method}"):
            codes[f"faiss, {name}"] = _faiss(getattr(faiss, f"ClusteringInitMethod_{method}"))
    few = site(500, PER_PERSON).centered().features.astype(np.float32)
    for code in codes.values():
        code(few, 5, 1)  # loads what it needs
    head(
        f"faiss {faiss.__version__}, its own {ITERATIONS} iterations, all images, {STARTS} starts; "
        f"median (smallest - largest) of {options.repeats} seeds; inertia in float64.",
        *("N", "people", "K", "code", "seconds", "times faster than ours"),
        *("inertia / ours", "adjusted Rand index"),
    )
    for images in options.sizes or (4000,):
        data, clusters = site(images, PER_PERSON).centered(), images // PER_CLUSTER
        features = data.features.astype(np.float32)
        seconds: dict[str, list[float]] = {name: [] for name in codes}
        spent: dict[str, list[float]] = {name: [] for name in codes}
        agreement: dict[str, list[float]] = {name: [] for name in codes}
        for seed in range(1, options.repeats + 1):
            for name, code in codes.items():
                start = time.monotonic()
                labels = code(features, clusters, seed)
                seconds[name].append(time.monotonic() - start)
                spent[name].append(inertia(features, labels))
                agreement[name].append(adjusted_rand_score(data.people, labels))
        for name in codes:
            faster = np.divide(seconds["ours"], seconds[name])
            ratio = np.divide(spent[name], spent["ours"])
            line(f"{images:,}", len(np.unique(data.people)), clusters, name, spread(seconds[name]),
                 spread(faster), spread(ratio, 3), spread(agreement[name], 3))  # fmt: skip


def _ours(features: NDArray[np.float32], clusters: int, seed: int) -> Codes:
    return cluster_kmeans(features, clusters, seed=seed, starts=STARTS).labels


def _faiss(method: int) -> KMeans:
    def cluster(features: NDArray[np.float32], clusters: int, seed: int) -> Codes:
        estimator = faiss.Kmeans(
            features.shape[1],
            clusters,
            niter=ITERATIONS,
            nredo=STARTS,
            seed=seed,
            init_method=method,
            min_points_per_centroid=1,  # no warning
            max_points_per_centroid=len(features),  # no sampling
        )
        estimator.train(features)
        labels: Codes = estimator.assign(features)[1]
        return labels

    return cluster


def inertia(features: NDArray[np.float32], labels: Codes) -> float:
    """Squared distances of all images to the mean of their cluster, summed up in float64."""
    wide = features.astype(np.float64)
    _, code, size = np.unique(labels, return_inverse=True, return_counts=True)
    centers = np.zeros((len(size), wide.shape[1]))
    np.add.at(centers, code, wide)
    return float(((wide - (centers / size[:, None])[code]) ** 2).sum())
