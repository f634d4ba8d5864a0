"""Checks of every round's pseudo labels, and when a run must stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, hstack
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from sklearn.metrics import adjusted_rand_score

from adapt.errors import ClusteringError
from adapt.types import OUTLIER, PseudoLabels
from models.wording import plural

MAX_OUTLIER_SHARE = 0.95
MAX_CLUSTER_SHARE = 0.5
WARN_OUTLIER_SHARE = 0.6
WARN_CLUSTERS_FACTOR = 2.0

NO_WEIGHT = 1e-9
"""Images that a cluster without a predecessor keeps: none, but an entry of a sparse matrix."""


@dataclass(frozen=True)
class LabelReport:
    """Figures of one round's pseudo labels; shares are fractions of images unless said.

    smallest, median, largest: images per cluster.
    cross_camera_share: fraction of clusters seen by two or more cameras.
    agreement: adjusted Rand index with the round before over images clustered in both; None in
        the first round and where no image is clustered in both.
    changed_share: fraction of images whose label differs from the round before after the
        one-to-one renaming of clusters that keeps most; None in the first round.
    radius: of DBSCAN; None where there is none.
    warnings: for people.
    """

    clusters: int
    outlier_share: float
    smallest: int
    median: float
    largest: int
    cross_camera_share: float
    agreement: float | None
    changed_share: float | None
    radius: float | None
    warnings: tuple[str, ...]

    def metrics(self) -> Mapping[str, float]:
        """The figures by name, without those that are not known."""
        figures = {
            "clusters": self.clusters,
            "outlier_share": self.outlier_share,
            "cluster_size_min": self.smallest,
            "cluster_size_median": self.median,
            "cluster_size_max": self.largest,
            "cross_camera_share": self.cross_camera_share,
            "agreement": self.agreement,
            "changed_share": self.changed_share,
            "radius": self.radius,
        }
        return {name: float(value) for name, value in figures.items() if value is not None}


def check_labels(
    labels: PseudoLabels,
    cameras: NDArray[np.int64],
    *,
    identities_per_batch: int,
    previous: PseudoLabels | None = None,
) -> LabelReport:
    """Judge a round's labels before anything is trained on them.

    Args:
        labels: of N images.
        cameras: (N,) camera codes.
        identities_per_batch: P of the sampler.
        previous: labels of the round before, same images.

    Returns:
        The round's figures, with the labels' own warnings and one for more than 60 % outliers
        and for twice or half as many clusters as before.

    Raises:
        ClusteringError: more than 95 % outliers, fewer clusters than max(2, P), or one cluster
            with more than half of all clustered images: training would collapse.
        ValueError: cameras or previous are of another number of images.
    """
    images = len(labels.labels)
    if cameras.shape != (images,) or (previous and len(previous.labels) != images):
        raise ValueError("labels, cameras and previous labels must be of the same images")
    _refuse_collapse(labels, identities_per_batch)
    sizes = labels.sizes
    agreement = changed = None
    if previous is not None:
        agreement = label_agreement(labels.labels, previous.labels)
        changed = _changed_share(labels, previous)
    return LabelReport(
        clusters=labels.clusters,
        outlier_share=labels.outlier_share,
        smallest=int(sizes.min()),
        median=float(np.median(sizes)),
        largest=int(sizes.max()),
        cross_camera_share=cross_camera_share(labels, cameras),
        agreement=agreement,
        changed_share=changed,
        radius=labels.radius,
        warnings=_warnings(labels, previous),
    )


def _refuse_collapse(labels: PseudoLabels, identities_per_batch: int) -> None:
    if not len(labels.labels):
        raise ClusteringError("no images to label: add crops to the site")
    needed = max(2, identities_per_batch)
    largest, kept = int(labels.sizes.max(initial=0)), int(labels.sizes.sum())
    if labels.known:
        _refuse_known(labels, needed, largest)
        return
    what = f"these labels cannot be trained on ({labels.rule}): "
    if labels.outlier_share > MAX_OUTLIER_SHARE:
        raise ClusteringError(
            f"{what}{labels.outlier_share:.1%} of {plural(len(labels.labels), 'image')} are "
            "outliers; use k-means, a smaller min_samples, for DBSCAN a larger radius or "
            "pairs_per_image, for HDBSCAN a smaller min_cluster_size"
        )
    if labels.clusters < needed:
        raise ClusteringError(
            f"{what}{plural(labels.clusters, 'cluster')}, but batches need {needed}; add crops, "
            "ask for more clusters (DBSCAN: another radius), or lower the identities per batch"
        )
    if largest > MAX_CLUSTER_SHARE * kept:
        raise ClusteringError(
            f"{what}one cluster holds {largest} of {plural(kept, 'clustered image')}; use a "
            "smaller radius or more clusters, or start from a network that tells people apart "
            "better"
        )


def _refuse_known(labels: PseudoLabels, needed: int, largest: int) -> None:
    """The same limits on true identities, whose remedy is other crops."""
    images = len(labels.labels)
    if labels.clusters < needed:
        raise ClusteringError(
            f"the labelled crops show {plural(labels.clusters, 'person', 'people')}, but batches "
            f"need {needed}; add crops of other people, or lower batch.identities with --set"
        )
    if largest > MAX_CLUSTER_SHARE * images:
        raise ClusteringError(
            f"one person has {largest} of the {plural(images, 'labelled crop')}, more than half; "
            "add crops of other people, or leave some of this person's out"
        )


def _warnings(labels: PseudoLabels, previous: PseudoLabels | None) -> tuple[str, ...]:
    found = list(labels.warnings)
    if labels.outlier_share > WARN_OUTLIER_SHARE:
        found.append(
            f"{labels.outlier_share:.0%} of the images are outliers and are not trained on; "
            "consider a larger radius or more pairs_per_image"
        )
    if previous is not None:
        few, many = sorted((labels.clusters, previous.clusters))
        if many > WARN_CLUSTERS_FACTOR * few:
            found.append(
                f"the number of clusters went from {previous.clusters} to {labels.clusters} in "
                "one round; consider a lower learning rate"
            )
    return tuple(found)


def cross_camera_share(labels: PseudoLabels, cameras: NDArray[np.int64]) -> float:
    """Fraction of clusters with images of two or more cameras; 0 without clusters."""
    if not labels.clusters:
        return 0.0
    kept = labels.labels != OUTLIER
    seen = np.unique(np.stack([labels.labels[kept], cameras[kept]]), axis=1)
    return float((np.bincount(seen[0]) >= 2).mean())


def label_agreement(one: NDArray[np.int64], other: NDArray[np.int64]) -> float | None:
    """Adjusted Rand index over the images that both labellings cluster; None without any."""
    both = (one != OUTLIER) & (other != OUTLIER)
    if not both.any():
        return None
    return float(adjusted_rand_score(other[both], one[both]))


def _changed_share(labels: PseudoLabels, previous: PseudoLabels) -> float:
    now, before = labels.labels, previous.labels
    both = (now != OUTLIER) & (before != OUTLIER)
    shape = (labels.clusters, previous.clusters)
    common = csr_array((np.ones(both.sum()), (now[both], before[both])), shape)
    common.sum_duplicates()
    # Each cluster may also keep nothing (its own column, next to no weight): a matching exists.
    nothing = diags_array(np.full(labels.clusters, NO_WEIGHT))
    choices = hstack([common, nothing], format="csr")
    rows, columns = min_weight_full_bipartite_matching(choices, maximize=True)
    kept = round(float(choices[rows, columns].sum()))
    outlier_twice = (now == OUTLIER) & (before == OUTLIER)
    return 1 - (kept + int(outlier_twice.sum())) / len(now)
