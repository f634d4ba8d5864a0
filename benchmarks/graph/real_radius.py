"""Part `radius` on real features: the rules, then all clusterings."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from adapt.clustering.clusterer import BIAS_NEIGHBORS, MIN_BIAS, MIN_CROPS_TO_CENTER
from adapt.clustering.graph.camera_bias import camera_bias
from adapt.clustering.graph.jaccard import JaccardGraph, Variant
from adapt.clustering.graph.neighbors import UnitRows, nearest_neighbors
from adapt.clustering.labels.array_files import read_features
from adapt.clustering.labels.hdbscan import REACH, cluster_hdbscan
from adapt.clustering.labels.kmeans import auto_clusters, cluster_kmeans
from benchmarks.graph.rules import RuleResult, Rules, at, loss, radius_rules, result, said
from benchmarks.graph.settings import K1, K2
from benchmarks.graph.sites import Features
from benchmarks.graph.tables import head, line


def real_radius(options: argparse.Namespace) -> None:
    """Rules on real features, of all people and of some, then what all people show."""
    files = itertools.zip_longest(options.features, options.people, options.cameras, options.name)
    real = {name or file.stem: _read(file, *beside) for file, *beside, name in files}
    head(
        "ARI at the radius of each rule.",
        *("features", "N", "people", "cameras", "variant", "best", "auto", "pairs", "rho"),
        *("auto loses", "it said"),
    )
    whole: dict[tuple[str, str], dict[Variant, Rules]] = {}
    for name, data in real.items():
        for part in _subsets(data, options.subsets):
            for way, shown in _ways(part).items():
                rules = {variant: radius_rules(shown, variant) for variant in K1}
                whole[name, way] = rules  # the last part is whole
                print_real(name, way, shown, rules)
    print_centering(real, whole)
    head(
        "ARI and NMI to the people, outliers as singletons.",
        *("features", "variant", "clustering", "radius", "clusters", "outliers", "ARI", "NMI"),
    )
    for name, data in real.items():
        for way, shown in _ways(data).items():
            print_clusterings(f"{name}, {way}", shown, whole[name, way])


def _read(features: Path, people: Path, cameras: Path | None) -> Features:
    table = read_features(features)
    truth = np.load(people)
    codes = np.zeros(len(truth), np.int64) if cameras is None else np.load(cameras)
    return Features(table, truth, codes.astype(np.int64))


def _subsets(data: Features, sizes: Sequence[int]) -> Iterator[Features]:
    """All people, and random people with about so many images."""
    order = np.random.default_rng(0).permutation(np.unique(data.people))
    counts = np.cumsum([(data.people == person).sum() for person in order])
    for size in sizes:
        if size < len(data.people):
            kept = order[: int(np.searchsorted(counts, size)) + 1]
            yield data.subset(np.flatnonzero(np.isin(data.people, kept)))
    yield data


def _ways(data: Features) -> dict[str, Features]:
    ways = {"as extracted": data}
    return ways | {"centered": data.centered()} if data.cameras.any() else ways


def print_real(name: str, way: str, data: Features, rules: Mapping[Variant, Rules]) -> None:
    """A table row per variant."""
    for variant, results in rules.items():
        row = {"rules": {rule: asdict(found) for rule, found in results.items()}}
        radii = (at(row["rules"][rule]) for rule in ("best", "auto", "pairs", "rho"))
        line(name, f"{len(data.people):,}", len(np.unique(data.people)), way, variant, *radii,
             f"{loss(row, 'auto'):.3f}", said(row["rules"]["auto"]))  # fmt: skip


def print_centering(
    real: Mapping[str, Features], rules: Mapping[tuple[str, str], Mapping[Variant, Rules]]
) -> None:
    """Camera bias and what `camera_centering = auto` does, beside what centering does."""
    head(
        "Camera bias of all people, and ARI at the best radius.",
        *("features", "cameras", "bias", "`auto`", "variant", "as extracted", "centered"),
    )
    for name, data in real.items():
        if not data.cameras.any():
            continue
        near = nearest_neighbors(UnitRows(data.features), BIAS_NEIGHBORS)
        bias = camera_bias(near.rank, data.cameras)
        large = (np.bincount(data.cameras) >= MIN_CROPS_TO_CENTER).sum()
        auto = "centers" if large >= 2 and bias > MIN_BIAS else "leaves"
        for variant in K1:
            best = (rules[name, way][variant]["best"].ari for way in _ways(data))
            line(name, len(np.unique(data.cameras)), f"{bias:.3f}", auto, variant,
                 *(f"{ari:.3f}" for ari in best))  # fmt: skip


def print_clusterings(name: str, data: Features, rules: Mapping[Variant, Rules]) -> None:
    """All clusterings of the same features."""
    features = data.features.astype(np.float32)
    for variant, results in rules.items():
        for rule, found in results.items():
            print_clustering(name, variant, f"dbscan {rule}", found)
        graph = JaccardGraph(features, k1=K1[variant], k2=K2, variant=variant)
        tree = cluster_hdbscan(graph.distances(REACH), min_samples=8, min_cluster_size=8)
        print_clustering(name, variant, "hdbscan 8, 8", result(tree.labels, data.people))
    counts = {"N/20": auto_clusters(len(features), 2), "people": len(np.unique(data.people))}
    for rule, clusters in counts.items():
        means = cluster_kmeans(features, clusters, seed=1)
        print_clustering(name, "", f"k-means, K = {rule}", result(means.labels, data.people))


def print_clustering(name: str, variant: str, rule: str, found: RuleResult) -> None:
    """A table row."""
    if found.ari is None:
        line(name, variant, rule, "refused", "", "", "", "")
        return
    radius = "" if found.radius is None else f"{found.radius:.3f}"
    line(name, variant, rule, radius, found.clusters, f"{found.outliers:.1%}",
         f"{found.ari:.3f}", f"{found.nmi:.3f}")  # fmt: skip
