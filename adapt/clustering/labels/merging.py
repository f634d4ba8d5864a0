"""Merging of clusters whose images are each other's nearest (AML).

Notation, of an image a in cluster A, and another cluster B
    U(a)       its nearest images and its nearest images of other cameras
    hit(a,B)   1 where U(a) holds an image of B, else 0                 (1)
    KNC(A->B)  sum of hit(a,B) over a in A                              (2)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from adapt.clustering.graph.rows import NearestLists
from adapt.clustering.labels.guards import MAX_CLUSTER_SHARE
from adapt.errors import ClusteringError
from adapt.types import OUTLIER
from models.wording import plural


@dataclass(frozen=True)
class Merging:
    """What merging made of a round's clusters.

    labels: (N,) int64, merged clusters numbered by their first original cluster, outliers kept.
    joined: (K',) int64, how many original clusters each of them is made of.
    cross_camera_share: fraction of connections hit(a,B) = 1 that the nearest images of all
        cameras alone would not make; 0 without connections.
    """

    labels: NDArray[np.int64]
    joined: NDArray[np.int64]
    cross_camera_share: float

    @property
    def merges(self) -> int:
        """How many clusters fewer there are."""
        return int(self.joined.sum()) - len(self.joined)

    @property
    def longest_chain(self) -> int:
        """Most clusters that became one; 0 without clusters."""
        return int(self.joined.max(initial=0))

    def __str__(self) -> str:
        return f"{plural(self.joined.sum(), 'cluster')} merged to {len(self.joined)}"


def merge_clusters(labels: NDArray[np.int64], lists: NearestLists, threshold: float) -> Merging:
    """Merge clusters that are connected both ways, and all that are connected through them.

        A and B are merged iff  KNC(A->B) / |A| > threshold  and  KNC(B->A) / |B| > threshold

    Args:
        labels: (N,) 0..K-1 without holes, -1 for outliers: they connect nothing.
        lists: each image's nearest others; AML takes 3, and 15 of other cameras.
        threshold: in [0, 1); 0.5 in AML.

    Returns:
        The new labels and how they came about. Nothing K x K is held.

    Raises:
        ValueError: threshold is out of range, or the lists are of other images.

    Source: AML (Huang et al., 2021), section 3.2, equations 1 to 4.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), got {threshold}")
    if {len(lists.nearest), len(lists.cross_camera)} != {len(labels)}:
        raise ValueError(f"lists of {len(lists.nearest)} images do not fit {len(labels)} labels")
    clusters = int(labels.max(initial=OUTLIER)) + 1
    kept = labels != OUTLIER
    image, cluster = _hits(labels, np.hstack([lists.nearest, lists.cross_camera]))
    without_cameras, _ = _hits(labels, lists.nearest)
    size = np.bincount(labels[kept], minlength=clusters)
    knc = coo_array((np.ones(len(image)), (labels[image], cluster)), (clusters, clusters)).tocsr()
    row = np.repeat(np.arange(clusters), np.diff(knc.indptr))
    knc.data = (knc.data / size[row] > threshold).astype(np.int8)
    _, group = connected_components(knc.multiply(knc.T), directed=False)
    _, first = np.unique(group, return_index=True)
    group = np.argsort(np.argsort(first))[group]
    merged = np.full(len(labels), OUTLIER)
    merged[kept] = group[labels[kept]]
    only_across = 1 - len(without_cameras) / len(image) if len(image) else 0.0
    return Merging(merged, np.bincount(group), only_across)


def refuse_chain(merging: Merging) -> None:
    """Refuse a chain of merges: A with B, B with C, until all people are one.

    Raises:
        ClusteringError: merges put more than half of the clustered images into one cluster.
    """
    sizes = np.bincount(merging.labels[merging.labels != OUTLIER])
    if not len(sizes):
        return
    largest, total = int(sizes.argmax()), int(sizes.sum())
    chained = int(merging.joined[largest])
    if chained > 1 and sizes[largest] > MAX_CLUSTER_SHARE * total:
        raise ClusteringError(
            f"a chain of merges makes {chained} of {plural(merging.joined.sum(), 'cluster')} "
            f"one, with {sizes[largest]} of {plural(total, 'clustered image')}: lower "
            "options.merge_cross_camera below the images that people have in other cameras "
            "(without cameras, of a person at all), raise options.merge_threshold, or do "
            "not merge (options.labels=original)"
        )


def _hits(
    labels: NDArray[np.int64], listed: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Image and cluster of each hit(a,B) = 1, once each."""
    image = np.repeat(np.arange(len(labels)), listed.shape[1])
    other = listed.ravel()
    image, other = image[other >= 0], other[other >= 0]
    own, cluster = labels[image], labels[other]
    between = (own != OUTLIER) & (cluster != OUTLIER) & (own != cluster)
    clusters = int(labels.max(initial=OUTLIER)) + 1
    pairs = np.unique(image[between] * clusters + cluster[between])
    return pairs // clusters, pairs % clusters
