"""Part `whole`: features on disk to labels, as `resight cluster` does it."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.clustering.clusterer import Clusterer
from adapt.clustering.graph.jaccard import Variant
from adapt.clustering.labels.array_files import read_features
from adapt.config import Clustering
from adapt.types import OUTLIER
from benchmarks.alone import alone
from benchmarks.graph.agreement import ari
from benchmarks.graph.cost import Cost, MemoryStages, warm_up
from benchmarks.graph.settings import K1, K2
from benchmarks.graph.sites import PER_PERSON, site
from benchmarks.graph.tables import head, line


def whole(options: argparse.Namespace) -> None:
    """Features on disk to labels, as `resight cluster --method dbscan` does it."""
    for images in options.sizes or (100000,):
        with tempfile.TemporaryDirectory(dir=options.out) as folder:
            features = Path(folder) / "features.npy"
            shape = (images, 2048)
            table = np.lib.format.open_memmap(features, "w+", np.float16, shape)
            people = site(images, PER_PERSON, width=2048, out=table).people
            table.flush()
            del table
            cost = alone(whole_cost, features, options.variant)
        mapped = f"{2 * images * 2048 / 1e9:.2f} GB on disk, which count when they are mapped"
        found = f"{options.variant}: {_describe(cost, people)}"
        title = f"{images:,} x 2048 float16 ({mapped}), {found}."
        head(title, "stage", "seconds", "extra GB")
        for stage, seconds in cost.seconds.items():
            line(stage, f"{seconds:.1f}", f"{cost.extra[stage] / 1e9:.3f}")


def whole_cost(features: Path, variant: Variant) -> Cost:
    """What `whole` runs alone; the stage `radius` holds the seconds of `jaccard` as well."""
    warm_up(variant)
    settings = Clustering(
        algorithm="dbscan", camera_centering="auto", k1=K1[variant], k2=K2, variant=variant
    )
    clusterer = Clusterer(settings, identities_per_batch=2, seed=1)
    clusterer.stages = stages = MemoryStages()
    table = read_features(features)
    with stages("all"):
        found = clusterer(table, np.zeros(len(table), np.int64))
    return Cost(stages.seconds, stages.extra, found.labels)


def _describe(cost: Cost, people: NDArray[np.int64]) -> str:
    found = cost.labels
    return (
        f"{found.max() + 1} clusters, {(found == OUTLIER).mean():.1%} outliers, "
        f"{len(np.unique(people))} people, adjusted Rand index {ari(people, found):.3f}"
    )
