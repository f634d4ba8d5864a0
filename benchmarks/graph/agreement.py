"""How far labels agree with other labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from adapt.types import OUTLIER


def count_moved(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> int:
    """Images that are not in the cluster that most images of theirs are in; outliers stay out."""
    moved = 0
    for label in np.unique(ours):
        other = theirs[ours == label]
        moved += int((other != (OUTLIER if label == OUTLIER else _commonest(other))).sum())
    return moved


def _commonest(values: NDArray[np.int64]) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def counts(labels: NDArray[np.int64]) -> str:
    """Clusters and outliers, for a table."""
    return f"{labels.max() + 1}, {(labels == OUTLIER).sum()}"


def singles(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each outlier a cluster of its own."""
    out = labels == OUTLIER
    alone = labels.copy()
    alone[out] = labels.max() + 1 + np.arange(out.sum())
    return alone


def ari(truth: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Adjusted Rand index, outliers as singletons."""
    return float(adjusted_rand_score(truth, singles(labels)))
