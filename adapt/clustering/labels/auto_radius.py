"""DBSCAN's radius from what it produces: no label, no number of people, no dependence on N."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from adapt.clustering.graph.radius import CUT
from adapt.clustering.graph.rows import DistanceGraph
from adapt.clustering.labels.dbscan import cluster_dbscan
from adapt.clustering.labels.silhouette import silhouette
from adapt.errors import ClusteringError
from adapt.types import OUTLIER

RADII = np.arange(0.1, CUT, 0.025)
"""Radii that are tried; pairs beyond CUT count as farthest."""

NEARLY_BEST = 0.85
"""Share of the largest silhouette from which on a radius is a candidate."""

SAME_PEOPLE = 0.96
"""Adjusted Rand index from which on a larger radius has added images but merged no people."""

SAME_IMAGES = 0.995
"""Adjusted Rand index from which on hardly an image has changed its cluster."""

AS_TIGHT = 0.99
"""Share of the chosen silhouette down to which a larger radius of the same clusters is taken."""

MIN_SILHOUETTE = 0.1
"""Below this no radius separates anything."""

MANY_OUTLIERS = 0.3
"""Share of images left out from which on the choice is in doubt."""

MANY_NEIGHBORHOODS = 5
"""Largest cluster, in k1, from which on the choice is in doubt: most pairs in it are at 1."""


@dataclass(frozen=True)
class RadiusChoice:
    """What `auto_radius` found.

    radius: eps. silhouettes: of each of `RADII`. doubts: why the choice may be wrong, for people;
    empty when nothing speaks against it.
    """

    radius: float
    silhouettes: tuple[float, ...]
    doubts: tuple[str, ...]


def auto_radius(graph: DistanceGraph, *, min_samples: int, neighbors: int) -> RadiusChoice:
    """Choose the radius whose clusters are tight and apart.

    Every radius of a grid is tried, and the mean silhouette of its clusters measured. From the
    smallest radius that reaches 85 % of the best silhouette the choice moves on to larger ones
    as long as that raises the silhouette and adds images to clusters without merging them:
    people who look alike make larger clusters that are tight, too, and merged people cannot be
    told apart again, but images left out can join in a later round. At last it takes
    larger radii while the same clusters take in more images and stay about as tight (silhouette
    within 1 %).

    Args:
        graph: distances of N images.
        min_samples: of DBSCAN.
        neighbors: k1 of the distance; clusters much smaller than it are in doubt.

    Returns:
        The radius and what speaks against it.

    Raises:
        ClusteringError: no radius makes two or more clusters that are apart (silhouette below 0.1
            everywhere).

    Source: ours; docs/graph.md has the evidence. Silhouette: Rousseeuw 1987.
    """
    distances = graph.distances(CUT)
    labels = [cluster_dbscan(distances, float(r), min_samples).labels for r in RADII]
    scores = np.array([silhouette(distances, found) for found in labels])
    best = scores.max()
    if best < MIN_SILHOUETTE:
        why = (
            f"with k1 = {neighbors} each of {graph.images} images is a neighbor of all; lower k1"
            if neighbors >= graph.images
            else "the network does not tell them apart, people were not seen often enough, or far "
            f"oftener than k1 = {neighbors} times; start from another network, raise k1"
        )
        raise ClusteringError(
            f"no radius separates these images (largest silhouette {best:.2f}): {why}, add crops, "
            "or set the radius to a number"
        )
    start = chosen = int(np.flatnonzero(scores >= NEARLY_BEST * best)[0])
    for i in range(start + 1, len(RADII)):
        if scores[i] > scores[chosen] and _agreement(labels[start], labels[i]) >= SAME_PEOPLE:
            chosen = i
    tight = chosen
    for i in range(tight + 1, len(RADII)):
        as_tight = scores[i] >= AS_TIGHT * scores[tight]
        more = (labels[i] != OUTLIER).sum() > (labels[chosen] != OUTLIER).sum()
        if as_tight and more and _agreement(labels[tight], labels[i]) >= SAME_IMAGES:
            chosen = i
    return RadiusChoice(
        float(RADII[chosen]),
        tuple(map(float, scores)),
        _doubts(labels[chosen], labels[int(scores.argmax())], neighbors),
    )


def _agreement(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    both = (first != OUTLIER) & (second != OUTLIER)
    return float(adjusted_rand_score(first[both], second[both]))


def _doubts(chosen: NDArray[np.int64], best: NDArray[np.int64], neighbors: int) -> tuple[str, ...]:
    sizes = np.bincount(chosen[chosen != OUTLIER])
    found = []
    if _agreement(chosen, best) < SAME_PEOPLE:
        found.append(
            f"larger clusters ({best.max() + 1} instead of {len(sizes)}) would be as tight: "
            "groups of people who look alike?"
        )
    outliers = float((chosen == OUTLIER).mean())
    if outliers > MANY_OUTLIERS:
        found.append(
            f"{outliers:.0%} of the images are left out: people seen seldom, or so often that "
            "they fall apart?"
        )
    if sizes.max() > MANY_NEIGHBORHOODS * neighbors:
        found.append(
            f"a cluster of {sizes.max()} images is large beside k1 = {neighbors} neighbors: most "
            "of its images do not know each other"
        )
    if np.median(sizes) * 3 < neighbors:
        found.append(
            f"clusters of {np.median(sizes):g} images are small beside k1 = {neighbors} "
            "neighbors: most neighbors are other people"
        )
    return tuple(found)
