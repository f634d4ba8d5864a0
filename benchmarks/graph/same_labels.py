"""Part `labels`: labels of our code, of a plain dense one and of public code."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapt.clustering.graph.jaccard import JaccardGraph, Variant
from adapt.clustering.graph.radius import radius_by_rho
from adapt.clustering.labels.dbscan import cluster_dbscan
from benchmarks.graph.agreement import count_moved, counts
from benchmarks.graph.dense import (
    dense_dbscan,
    dense_jaccard,
    dense_neighbors,
    dense_radius_by_rho,
    public_jaccard,
    unit_rows,
)
from benchmarks.graph.settings import K1, K2, MIN_SAMPLES, RHO
from benchmarks.graph.sites import awkward
from benchmarks.graph.tables import head, line

TIE = 1e-6
"""Rounding moves distances by less."""


def labels(options: argparse.Namespace) -> None:
    """Labels of the same images at five radii by all codes."""
    searches = itertools.product(options.public, ("our lists", "own search"))
    head(
        "Images whose DBSCAN label is not ours.",
        *("N", "variant", "radius", "pairs within 1e-6 of it", "clusters, outliers", "dense"),
        *(f"{file.stem}, {search}" for file, search in searches),
    )
    for images, variant in itertools.product(options.sizes or (2000, 4000), K1):
        features = awkward(images, seed=images)
        unit, k1 = unit_rows(features), K1[variant]
        graph = JaccardGraph(features, k1=k1, k2=K2, variant=variant)
        near = dense_neighbors(unit, k1 + 1)
        others = [
            public_jaccard(file, unit, k1=k1, k2=K2, near=lists) if variant == "faiss" else None
            for file, lists in itertools.product(options.public, (near, None))
        ]
        dense = dense_jaccard(unit, near, k1=k1, k2=K2, variant=variant)
        print_labels(images, variant, graph, dense, others)


def print_labels(
    images: int,
    variant: Variant,
    graph: JaccardGraph,
    dense: NDArray[np.float32],
    others: Sequence[NDArray[np.float32] | None],
) -> None:
    """A row per radius; where J hits it, one more just above it.

    With k2 = 6, J is exactly 1/2 for pairs that share 4 of 6 averaged rows, as copies do: there
    each code's rounding decides, and no two agree.
    """
    found = graph.distances(1.0)
    rho = radius_by_rho(graph, RHO), dense_radius_by_rho(dense, RHO)
    for ours, theirs in (rho, *((r, r) for r in (0.4, 0.5, 0.6, 0.7))):
        ties = int((np.abs(found.data - ours) < TIE).sum()) // 2
        for above in (0.0, TIE) if ties else (0.0,):
            labels = cluster_dbscan(found, ours + above, MIN_SAMPLES).labels
            differ = [_difference(labels, other, theirs + above) for other in (dense, *others)]
            name = f"{ours:.6f} (rho; dense {theirs:.6f})" if ours == rho[0] else f"{ours}"
            name += f" + {TIE}" if above else ""
            line(f"{images:,}", variant, name, ties, counts(labels), *differ)
    whole = np.ones(found.shape, np.float32)
    whole[np.repeat(np.arange(graph.images), np.diff(found.indptr)), found.indices] = found.data
    gaps = ("-" if x is None else f"{np.abs(whole - x).max():.1e}" for x in (dense, *others))
    line(f"{images:,}", variant, "largest difference of J", "", "", *gaps)


def _difference(ours: NDArray[np.int64], jaccard: NDArray[np.float32] | None, radius: float) -> str:
    """Images with another label; a cluster more renumbers all that follow."""
    if jaccard is None:
        return "-"
    theirs = dense_dbscan(jaccard, radius, MIN_SAMPLES)
    differ, moved = int((ours != theirs).sum()), count_moved(ours, theirs)
    return f"{differ}" if differ == moved else f"{differ} ({moved} but for their numbers)"
