"""Rules for DBSCAN's radius, and the labels that each leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import normalized_mutual_info_score

from adapt.clustering.graph.jaccard import JaccardGraph, Variant
from adapt.clustering.graph.radius import LARGEST, radius_by_pairs, radius_by_rho
from adapt.clustering.graph.rows import DistanceGraph, StoredGraph, stack_rows
from adapt.clustering.labels.auto_radius import auto_radius
from adapt.clustering.labels.dbscan import cluster_dbscan
from adapt.errors import ClusteringError
from adapt.types import OUTLIER
from benchmarks.graph.agreement import ari, singles
from benchmarks.graph.settings import K1, K2, MIN_SAMPLES, RHO
from benchmarks.graph.sites import Features

PAIRS = 10.35
TRIED_RADII = np.arange(0.1, LARGEST + 1e-9, 0.025)


@dataclass(frozen=True)
class RuleResult:
    """What one rule did. radius, ari: None where it refused. doubts: what it said."""

    radius: float | None
    ari: float | None
    doubts: tuple[str, ...] = ()
    clusters: int = 0
    outliers: float = 0.0
    nmi: float = 0.0


Rules = Mapping[str, RuleResult]
"""By the name of the rule; `best` knew the people."""


def radius_rules(data: Features, variant: Variant) -> Rules:
    """Labels by each rule, and by the best of a grid of radii for the adjusted Rand index."""
    graph = JaccardGraph(data.features, k1=K1[variant], k2=K2, variant=variant)

    def by_auto() -> tuple[float, tuple[str, ...]]:
        choice = auto_radius(graph, min_samples=MIN_SAMPLES, neighbors=K1[variant])
        return choice.radius, choice.doubts

    rules: dict[str, Callable[[], tuple[float, tuple[str, ...]]]] = {
        "auto": by_auto,
        "pairs": lambda: (radius_by_pairs(graph, PAIRS), ()),
        "rho": lambda: (radius_by_rho(graph, RHO), ()),
    }
    chosen: dict[str, tuple[float, tuple[str, ...]]] = {}
    results: dict[str, RuleResult] = {}
    for name, rule in rules.items():
        try:
            chosen[name] = rule()
        except ClusteringError as error:
            results[name] = RuleResult(None, None, (f"refused: {error}",))
    # Only now: `auto` and `rho` take the graph as it is held, and a site holds it up to CUT.
    wide = StoredGraph(graph.distances(LARGEST))
    tried = [_judge(wide, float(radius), data.people) for radius in TRIED_RADII]
    results["best"] = max(tried, key=lambda result: result.ari or 0.0)
    for name, (radius, doubts) in chosen.items():
        results[name] = _judge(wide, radius, data.people, doubts)
    return results


def _judge(
    graph: DistanceGraph, radius: float, people: NDArray[np.int64], doubts: tuple[str, ...] = ()
) -> RuleResult:
    found = cluster_dbscan(within(graph, radius), radius, MIN_SAMPLES)
    return result(found.labels, people, radius, doubts)


def within(graph: DistanceGraph, max_distance: float) -> csr_array:
    """Exactly the pairs up to a distance."""
    return stack_rows(StoredGraph(graph.distances(max_distance)).rows(max_distance))


def result(
    labels: NDArray[np.int64],
    people: NDArray[np.int64],
    radius: float | None = None,
    doubts: tuple[str, ...] = (),
) -> RuleResult:
    """Score labels."""
    nmi = float(normalized_mutual_info_score(people, singles(labels)))
    outliers = float((labels == OUTLIER).mean())
    return RuleResult(radius, ari(people, labels), doubts, int(labels.max()) + 1, outliers, nmi)


def loss(row: Mapping[str, Any], rule: str) -> float:
    """Adjusted Rand index lost against the best radius; all of it where the rule refused."""
    return float(row["rules"]["best"]["ari"] - (row["rules"][rule]["ari"] or 0.0))


def said(auto: Mapping[str, Any]) -> str:
    """Doubts, for a table."""
    return "; ".join(auto["doubts"]) or "nothing"


def at(rule: Mapping[str, Any]) -> str:
    """Adjusted Rand index and radius, for a table."""
    return "refused" if rule["ari"] is None else f"{rule['ari']:.3f} at {rule['radius']:.3f}"
