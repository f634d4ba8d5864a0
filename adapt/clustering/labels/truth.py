"""Pseudo labels compared with true identities, where they are known; nothing is chosen by it.

Shapes: N images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapt.clustering.labels.guards import label_agreement
from adapt.types import OUTLIER, UNLABELLED


def truth_figures(labels_N: NDArray[np.int64], person_N: NDArray[np.int64]) -> dict[str, float]:
    """Measure how well clusters match people.

        ari     adjusted Rand index, over the images that are in a cluster
        pair_f  2 TP / (pairs of one cluster + pairs of one person), TP: pairs of both; an image in
                no cluster is alone

    Args:
        labels_N: (N,) clusters, `OUTLIER` in none.
        person_N: (N,) identities, `UNLABELLED` where unknown: such images are left out.

    Returns:
        Both figures, without those that have no images to be measured on. `ari` is at most 1, and 0
        by chance; `pair_f` is in [0, 1], and falls where people are left out of clusters, too.

    Raises:
        ValueError: the arrays are not of the same images.

    Source: Hubert and Arabie, Comparing partitions, 1985; F-measure of pairs of images as in face
        clustering (Otto et al., Clustering millions of faces by identity, 2018).
    """
    if labels_N.ndim != 1 or labels_N.shape != person_N.shape:
        raise ValueError(f"labels {labels_N.shape} and persons {person_N.shape} must be (N,) both")
    known = person_N != UNLABELLED
    labels, person = labels_N[known], person_N[known]
    figures = {}
    agreement = label_agreement(labels, person)
    if agreement is not None:
        figures["ari"] = agreement
    inside = labels != OUTLIER
    both_N2 = np.stack([labels[inside], person[inside]], axis=1)
    together = _pairs(both_N2[:, 0]) + _pairs(person)
    if together:
        figures["pair_f"] = 2 * _pairs(both_N2) / together
    return figures


def _pairs(code: NDArray[np.int64]) -> int:
    """Pairs of equal rows."""
    counts = np.unique(code, axis=0, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())
