"""The labels that runs learned from at their end, beside the site's true ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from adapt.data.catalog.folders import read_labelled, read_site
from adapt.data.decoding.loading import load_crops
from adapt.errors import RunError
from adapt.runs.folder import Run
from adapt.types import OUTLIER, UNLABELLED
from models.image import Preprocessing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelQuality:
    """What one set of labels is worth.

    clusters, people: how many. outliers: share of the crops without a label. biggest: crops of the
    largest cluster. purity: share of the labelled crops that are of their cluster's most frequent
    person. rand: adjusted Rand index of the labelled crops. unknown: crops of unknown people, which
    are in `clusters`, `outliers` and `biggest` alone.
    """

    clusters: int
    people: int
    outliers: float
    biggest: int
    purity: float
    rand: float
    unknown: int = 0


def label_quality(labels_N: NDArray[np.int64], person_N: NDArray[np.int64]) -> LabelQuality:
    """Compare labels with true ones. Raises ValueError where no crop has both."""
    inside, known = labels_N != OUTLIER, person_N != UNLABELLED
    on = inside & known
    if not on.any():
        raise ValueError("no crop has a label")
    clusters = np.unique(labels_N[inside])
    people = np.unique(person_N[known])
    counts_CP = np.array(
        [[np.sum((labels_N == c) & (person_N == p)) for p in people] for c in clusters]
    )
    return LabelQuality(
        clusters=len(clusters),
        people=len(people),
        outliers=float(1 - inside.mean()),
        biggest=int(np.unique(labels_N[inside], return_counts=True)[1].max()),
        purity=float(counts_CP.max(axis=1).sum() / on.sum()),
        rand=float(adjusted_rand_score(person_N[on], labels_N[on])),
        unknown=int((~known).sum()),
    )


def last_labels(run: Run, target: Path) -> tuple[LabelQuality, ...]:
    """Quality of each set of labels of a run's last round; none of a run without such labels."""
    if run.info.kind != "adapt":
        return ()
    try:
        sets = run.labels()
    except RunError as error:
        log.info("%s", error)
        return ()
    people = true_people(target, run.info.preprocessing)
    return tuple(label_quality(labels, people) for labels in sets)


def true_people(target: Path, preprocessing: Preprocessing) -> NDArray[np.int64]:
    """Identities of a labelled folder's training crops, in the order in which a run learns them."""
    persons = {sample.path: sample.person for sample in read_labelled(target, ("train",)).samples}
    crops = load_crops(read_site(target), preprocessing, forget_names=True).crops
    return np.array([persons[sample.path] for sample in crops.samples])
