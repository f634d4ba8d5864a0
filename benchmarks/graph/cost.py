"""Time and memory of one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.clustering.graph.jaccard import JaccardGraph, Variant
from adapt.clustering.graph.neighbors import FaissSearch, Neighbors, UnitRows, nearest_neighbors
from adapt.clustering.graph.radius import CUT
from adapt.clustering.labels.auto_radius import auto_radius
from adapt.clustering.labels.dbscan import cluster_dbscan
from adapt.runtime.timing import Stages
from benchmarks.alone import memory
from benchmarks.graph.dense import dense_dbscan, dense_jaccard, public_jaccard
from benchmarks.graph.settings import K1, K2, MIN_SAMPLES
from benchmarks.graph.sites import PER_PERSON, site

RADIUS = 0.6
"""SpCL's, where the radius is not what is measured."""


class MemoryStages(Stages):
    """Seconds of each stage, and how far resident memory rose above where it was at the start."""

    def __init__(self) -> None:
        """What is held now does not count."""
        super().__init__()
        self.base = memory("VmRSS")
        self.extra: dict[str, int] = {}
        self._open: list[str] = []

    @contextmanager
    def __call__(self, name: str, announcement: str = "") -> Iterator[None]:
        """Measure a block; blocks may lie in each other."""
        self._note()
        self._open.append(name)
        with super().__call__(name, announcement):
            yield
        self._note()
        self._open.pop()

    def _note(self) -> None:
        for name in self._open:
            self.extra[name] = max(self.extra.get(name, 0), memory("VmHWM") - self.base)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here


@dataclass(frozen=True)
class Cost:
    """Seconds and extra bytes of each stage, and the labels."""

    seconds: Mapping[str, float]
    extra: Mapping[str, int]
    labels: NDArray[np.int64]


def warm_up(variant: Variant) -> None:
    """Compile, or load what was compiled, before anything is measured."""
    graph = JaccardGraph(site(500, PER_PERSON).features, k1=K1[variant], k2=K2, variant=variant)
    auto_radius(graph, min_samples=MIN_SAMPLES, neighbors=K1[variant])


def sparse_cost(features: Path, variant: Variant) -> Cost:
    """Ours: neighbors, encoding, jaccard, dbscan, and radius (auto) after that."""
    unit = np.load(features)
    warm_up(variant)
    stages = MemoryStages()
    graph = JaccardGraph(unit, k1=K1[variant], k2=K2, variant=variant, stages=stages)
    distances = graph.distances(CUT)
    with stages("dbscan"):
        labels = cluster_dbscan(distances, RADIUS, MIN_SAMPLES).labels
    with stages("radius"):
        auto_radius(graph, min_samples=MIN_SAMPLES, neighbors=K1[variant])
    return Cost(stages.seconds, stages.extra, labels)


def dense_cost(features: Path, lists: Path, variant: Variant, public: Path | None) -> Cost:
    """The dense code, or the public file, on ready lists: jaccard, dbscan."""
    unit = np.load(features)
    with np.load(lists) as held:
        near = Neighbors(held["rank"], held["squared"], held["farthest"])
    stages = MemoryStages()
    with stages("jaccard"):
        if public is None:
            jaccard = dense_jaccard(unit, near, k1=K1[variant], k2=K2, variant=variant)
        else:
            jaccard = public_jaccard(public, unit, k1=K1[variant], k2=K2, near=near)
    with stages("dbscan"):
        labels = dense_dbscan(jaccard, RADIUS, MIN_SAMPLES)
    return Cost(stages.seconds, stages.extra, labels)


def write_lists(features: Path, lists: Path, variant: Variant) -> None:
    """Neighbor lists for the dense code."""
    near = nearest_neighbors(
        UnitRows(np.load(features)), K1[variant] + 1, farthest=True, search=FaissSearch()
    )
    assert near.farthest is not None
    np.savez(lists, rank=near.rank, squared=near.squared, farthest=near.farthest)
