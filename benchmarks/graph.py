"""The sparse neighbour graph beside the dense one: `python -m benchmarks.graph PART ...`.

labels   labels of our code, of a plain dense one and of public code (`--public`), point by point
scale    time and memory against N, ours and dense in turn (each call in a process of its own)
whole    `resight cluster` on 100,000 float16 features of 2048 numbers, on disk
hdbscan  against the hdbscan library on the dense matrix
radius   rules for DBSCAN's radius against the best radius that labels could pick
pictures draws what `scale` and `radius` left in `--out` into `--pictures`

Each part prints Markdown. Features are synthetic unless `--features` names real ones. `scale` and
`radius` keep their figures in `--out` and show them with those of other sizes that are there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import hdbscan
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from adapt.cameras import center_cameras
from adapt.clustering import Clusterer
from adapt.config import Clustering
from adapt.errors import ClusteringError
from adapt.graph.jaccard import JaccardGraph, Variant
from adapt.graph.neighbours import FaissSearch, Neighbours, UnitRows, nearest_neighbours
from adapt.graph.radius import CUT, LARGEST, radius_by_pairs, radius_by_rho
from adapt.graph.rows import DistanceGraph, StoredGraph, stack_rows
from adapt.labels.array_files import read_features
from adapt.labels.auto_radius import auto_radius
from adapt.labels.dbscan import cluster_dbscan
from adapt.labels.hdbscan import cluster_hdbscan
from adapt.labels.kmeans import auto_clusters, cluster_kmeans
from adapt.stages import Stages
from adapt.types import OUTLIER
from benchmarks.dense_graph import (
    dense_dbscan,
    dense_jaccard,
    dense_neighbours,
    dense_radius_by_rho,
    public_jaccard,
    unit_rows,
)

P = ParamSpec("P")
R = TypeVar("R")

K1: dict[Variant, int] = {"classic": 20, "faiss": 30}
K2 = 6
MIN_SAMPLES = 4
RHO = 1.6e-3
PAIRS = 10.35
RADIUS = 0.6
"""SpCL's, where the radius is not what is measured."""

PER_PERSON = 17
"""Images of a person, as in Market-1501."""

TRIED_RADII = np.arange(0.1, LARGEST + 1e-9, 0.025)
TIE = 1e-6
"""Rounding moves distances by less."""

DENSE_ARRAYS = 2.7
"""N x N float32 arrays that the dense code needs, with room."""

GOOD_ENOUGH = 0.05
"""Adjusted Rand index that a rule may lose against the best radius."""

BLOCK = 8192
KB = 1024


# --- features ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """features: (N, D). people, cameras: (N,) codes."""

    features: NDArray[np.floating]
    people: NDArray[np.int64]
    cameras: NDArray[np.int64]

    def subset(self, rows: NDArray[np.integer]) -> Features:
        """Some of the images."""
        return Features(self.features[rows], self.people[rows], self.cameras[rows])

    def centred(self) -> Features:
        """Each camera's mean taken away."""
        centred = center_cameras(self.features.astype(np.float32), self.cameras)
        return Features(centred, self.people, self.cameras)


def site(
    images: int,
    per_person: float,
    *,
    noise: float = 1.0,
    width: int = 128,
    seed: int = 0,
    out: NDArray[np.floating] | None = None,
) -> Features:
    """Draw people of whom every eighth part look alike, some blurred more than others, 6 cameras.

    per_person: mean of a Poisson distribution. noise: length of what tells two images of a person
    apart; a person has length 1, cameras 0.3. out: (N, width) to fill instead of float32 in memory.
    """
    rng = np.random.default_rng(seed)
    sizes = np.maximum(rng.poisson(per_person, max(2, int(2 * images / per_person))), 1)
    people = np.repeat(np.arange(len(sizes)), sizes)[:images]
    rest = rng.integers(0, people.max() + 1, images - len(people))
    people = np.concatenate([people, rest])
    count = int(people.max()) + 1
    looks = rng.normal(size=(max(2, count // 8), width))
    person = (
        0.75 * rng.normal(size=(count, width)) + 0.66 * looks[rng.integers(0, len(looks), count)]
    )
    blur = noise * rng.lognormal(0, 0.25, count)
    cameras = rng.integers(0, 6, images)
    camera = 0.3 * rng.normal(size=(6, width))
    features = np.empty((images, width), np.float32) if out is None else out
    for first in range(0, images, BLOCK):
        part = slice(first, first + BLOCK)
        own = people[part]
        image = blur[own, None] * rng.normal(size=(len(own), width))
        features[part] = (person[own] + image + camera[cameras[part]]) / np.sqrt(width)
    return Features(features, people, cameras)


def awkward(images: int, seed: int) -> NDArray[np.float32]:
    """Features with copies (one image 40 times) and hubs: images that are near to all others."""
    rng = np.random.default_rng(seed)
    features = site(images, PER_PERSON, seed=seed).features.astype(np.float32)
    common = rng.normal(size=features.shape[1]) / np.sqrt(features.shape[1])
    features += 0.8 * common
    order = rng.permutation(images)
    hubs, copies, crowd = order[:20], order[20 : 20 + images // 10], order[-40:]
    features[hubs] = common + 0.1 * features[hubs]
    features[copies] = features[rng.choice(order[-images // 2 :], len(copies))]
    features[crowd] = features[crowd[0]]
    return features


# --- a process of its own, its memory and its time --------------------------------------------


def alone(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call in a fresh process, so that nobody else's memory is counted.

    Raises BrokenProcessPool: the process was killed (memory).
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *args, **kwargs).result()


def _memory(name: str, file: str = "/proc/self/status") -> int:
    """A line of Linux' own count, in bytes."""
    lines = Path(file).read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * KB


class MemoryStages(Stages):
    """Seconds of each stage, and how far resident memory rose above where it was at the start."""

    def __init__(self) -> None:
        """What is held now does not count."""
        super().__init__()
        self.base = _memory("VmRSS")
        self.extra: dict[str, int] = {}
        self._open: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a block; blocks may lie in each other."""
        self._note()
        self._open.append(name)
        with super().__call__(name):
            yield
        self._note()
        self._open.pop()

    def _note(self) -> None:
        for name in self._open:
            self.extra[name] = max(self.extra.get(name, 0), _memory("VmHWM") - self.base)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here


@dataclass(frozen=True)
class Cost:
    """Seconds and extra bytes of each stage, and the labels."""

    seconds: Mapping[str, float]
    extra: Mapping[str, int]
    labels: NDArray[np.int64]


def _compile(variant: Variant) -> None:
    """Compile, or load what was compiled, before anything is measured."""
    graph = JaccardGraph(site(500, PER_PERSON).features, k1=K1[variant], k2=K2, variant=variant)
    auto_radius(graph, min_samples=MIN_SAMPLES, neighbours=K1[variant])


def sparse_cost(features: Path, variant: Variant) -> Cost:
    """Ours: neighbours, encoding, jaccard, dbscan, and radius (auto) after that."""
    unit = np.load(features)
    _compile(variant)
    stages = MemoryStages()
    graph = JaccardGraph(unit, k1=K1[variant], k2=K2, variant=variant, stages=stages)
    distances = graph.distances(CUT)
    with stages("dbscan"):
        labels = cluster_dbscan(distances, RADIUS, MIN_SAMPLES).labels
    with stages("radius"):
        auto_radius(graph, min_samples=MIN_SAMPLES, neighbours=K1[variant])
    return Cost(stages.seconds, stages.extra, labels)


def dense_cost(features: Path, lists: Path, variant: Variant, public: Path | None) -> Cost:
    """The dense code, or the public file, on ready lists: jaccard, dbscan."""
    unit = np.load(features)
    with np.load(lists) as held:
        near = Neighbours(held["rank"], held["squared"], held["farthest"])
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
    """Neighbour lists for the dense code."""
    near = nearest_neighbours(
        UnitRows(np.load(features)), K1[variant] + 1, farthest=True, search=FaissSearch()
    )
    assert near.farthest is not None
    np.savez(lists, rank=near.rank, squared=near.squared, farthest=near.farthest)


# --- tables -----------------------------------------------------------------------------------


def head(title: str, *columns: str) -> None:
    """Start a Markdown table."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def line(*cells: object) -> None:
    """A row of it."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def spread(figures: Sequence[float] | NDArray[np.floating]) -> str:
    """Median (smallest - largest)."""
    return f"{np.median(figures):.2f} ({min(figures):.2f} - {max(figures):.2f})"


# --- labels -----------------------------------------------------------------------------------


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
        near = dense_neighbours(unit, k1 + 1)
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
            line(f"{images:,}", variant, name, ties, _counts(labels), *differ)
    whole = np.ones(found.shape, np.float32)
    whole[np.repeat(np.arange(graph.images), np.diff(found.indptr)), found.indices] = found.data
    gaps = ("-" if x is None else f"{np.abs(whole - x).max():.1e}" for x in (dense, *others))
    line(f"{images:,}", variant, "largest difference of J", "", "", *gaps)


def _difference(ours: NDArray[np.int64], jaccard: NDArray[np.float32] | None, radius: float) -> str:
    """Images with another label; a cluster more renumbers all that follow."""
    if jaccard is None:
        return "-"
    theirs = dense_dbscan(jaccard, radius, MIN_SAMPLES)
    differ, moved = int((ours != theirs).sum()), _moved(ours, theirs)
    return f"{differ}" if differ == moved else f"{differ} ({moved} but for their numbers)"


# --- scale ------------------------------------------------------------------------------------


def scale(options: argparse.Namespace) -> None:
    """Time and memory against N."""
    rivals: dict[str, Path | None] = {}
    if options.dense:
        rivals = {"dense": None} | {file.stem: file for file in options.public}
    rows: Rows = []
    for images in options.sizes or (12936, 32621, 100000):
        with tempfile.TemporaryDirectory() as folder:
            row = _scale_row(images, rivals, options, Path(folder))
        rows = _add(options.out / f"scale-{options.variant}.json", row, "images")
    print_scale(rows)
    print_rivals(rows)


def _scale_row(
    images: int, rivals: Mapping[str, Path | None], options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Run ours and each rival in turn, as often as asked for."""
    features, lists = folder / "features.npy", folder / "lists.npz"
    np.save(features, site(images, PER_PERSON, width=256).centred().features)
    if rivals:
        alone(write_lists, features, lists, options.variant)
    row: dict[str, Any] = {"images": images, "ours": []}
    row["rivals"] = {name: {"costs": [], "problem": _too_large(images)} for name in rivals}
    for _ in range(options.repeats):
        ours = alone(sparse_cost, features, options.variant)
        row["ours"].append(_jsonable(ours))
        for name, file in rivals.items():
            shown = row["rivals"][name]
            if shown["problem"]:
                continue
            try:
                cost = alone(dense_cost, features, lists, options.variant, file)
            except (BrokenProcessPool, MemoryError):
                shown["problem"] = "ran out of memory"
                continue
            differ = int((cost.labels != ours.labels).sum())
            shown["costs"].append(_jsonable(cost) | {"differ": differ})
    return row


def _too_large(images: int) -> str | None:
    """Why the dense code is not even tried."""
    needed, free = DENSE_ARRAYS * 4 * images**2, _memory("MemAvailable", "/proc/meminfo")
    if needed < free:
        return None
    return f"not run: needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"


def print_scale(rows: Sequence[Mapping[str, Any]]) -> None:
    """Tables of time, memory and growth of ours."""
    stages = ("neighbours", "encoding", "jaccard", "dbscan", "radius")
    head("Seconds, median (smallest - largest).", "N", *stages, "encoding to dbscan")
    for row in rows:
        seconds = ([cost["seconds"][stage] for cost in row["ours"]] for stage in stages)
        line(f"{row['images']:,}", *map(spread, seconds), spread(graph_seconds(row)))
    head("Extra resident memory beside the features, GB, largest.", "N", *stages, "all")
    for row in rows:
        peaks = [max(cost["extra"][stage] for cost in row["ours"]) / 1e9 for stage in stages]
        line(f"{row['images']:,}", *(f"{peak:.3f}" for peak in (*peaks, max(peaks))))
    head("Growth of encoding to dbscan.", "N", "microseconds per image", "to the first")
    first = np.median(graph_seconds(rows[0])) / rows[0]["images"]
    for row in rows:
        each = np.median(graph_seconds(row)) / row["images"]
        line(f"{row['images']:,}", f"{1e6 * each:.0f}", f"{each / first:.2f}x")


def print_rivals(rows: Sequence[Mapping[str, Any]]) -> None:
    """Ours beside the others."""
    head(
        "Neighbours excluded (encoding counts as jaccard); ratios of runs beside each other.",
        *("N", "against", "its jaccard, s", "its dbscan, s", "its extra GB"),
        *("jaccard: times faster", "jaccard and dbscan: times faster", "labels that differ"),
    )
    for row, (name, found) in _pairs(rows):
        costs, problem = found["costs"], found["problem"]
        if problem:
            line(f"{row['images']:,}", name, problem, "", "", "", "", "")
            continue
        jaccard, dbscan = (
            np.array([cost["seconds"][stage] for cost in costs]) for stage in ("jaccard", "dbscan")
        )
        ours = np.array(graph_seconds(row))
        without = ours - [cost["seconds"]["dbscan"] for cost in row["ours"]]
        peak = max(max(cost["extra"].values()) for cost in costs) / 1e9
        ratios = spread(jaccard / without), spread((jaccard + dbscan) / ours)
        differ = max(cost["differ"] for cost in costs)
        line(f"{row['images']:,}", name, spread(jaccard), spread(dbscan), f"{peak:.2f}",
             *ratios, differ)  # fmt: skip


def _pairs(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any], tuple[str, Mapping[str, Any]]]]:
    return ((row, rival) for row in rows for rival in row["rivals"].items())


def graph_seconds(row: Mapping[str, Any]) -> list[float]:
    """Encoding, jaccard and dbscan of each repeat."""
    stages = ("encoding", "jaccard", "dbscan")
    return [sum(cost["seconds"][stage] for stage in stages) for cost in row["ours"]]


# --- the whole job ----------------------------------------------------------------------------


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
    _compile(variant)
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
        f"{len(np.unique(people))} people, adjusted Rand index {_ari(people, found):.3f}"
    )


# --- hdbscan ----------------------------------------------------------------------------------


def hdbscan_library(options: argparse.Namespace) -> None:
    """HDBSCAN on the sparse graph, whole and cut, against the library on the dense matrix."""
    head(
        "min_samples 8, min_cluster_size 8.",
        *("N", "variant", "distances", "clusters, outliers", "ARI to the library"),
        *("images in another cluster", "seconds"),
    )
    for images, variant in itertools.product(options.sizes or (4000,), K1):
        features = site(images, PER_PERSON).centred().features
        graph = JaccardGraph(features, k1=K1[variant], k2=K2, variant=variant)
        near = dense_neighbours(features, K1[variant] + 1)
        jaccard = dense_jaccard(features, near, k1=K1[variant], k2=K2, variant=variant)
        start = time.monotonic()
        library = hdbscan.HDBSCAN(min_cluster_size=8, min_samples=8, metric="precomputed")
        theirs = library.fit_predict(jaccard.astype(np.float64))
        seconds = time.monotonic() - start
        line(f"{images:,}", variant, "library, dense", _counts(theirs), "", "", f"{seconds:.1f}")
        for cut in (1.0, 0.9, 0.75):
            distances = within(graph, cut)
            start = time.monotonic()
            ours = cluster_hdbscan(distances, min_samples=8, min_cluster_size=8).labels
            seconds = time.monotonic() - start
            agreement = f"{_ari(singles(theirs), ours):.4f}", _moved(ours, theirs)
            line(f"{images:,}", variant, f"ours, to {cut}", _counts(ours), *agreement,
                 f"{seconds:.1f}")  # fmt: skip


def within(graph: DistanceGraph, max_distance: float) -> csr_array:
    """Exactly the pairs up to a distance."""
    return stack_rows(StoredGraph(graph.distances(max_distance)).rows(max_distance))


def _moved(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> int:
    """Images that are not in the cluster that most images of theirs are in; outliers stay out."""
    moved = 0
    for label in np.unique(ours):
        other = theirs[ours == label]
        moved += int((other != (OUTLIER if label == OUTLIER else _commonest(other))).sum())
    return moved


def _commonest(values: NDArray[np.int64]) -> int:
    found, counts = np.unique(values, return_counts=True)
    return int(found[counts.argmax()])


def _counts(labels: NDArray[np.int64]) -> str:
    return f"{labels.max() + 1}, {(labels == OUTLIER).sum()}"


def singles(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each outlier a cluster of its own."""
    out = labels == OUTLIER
    alone = labels.copy()
    alone[out] = labels.max() + 1 + np.arange(out.sum())
    return alone


def _ari(truth: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Adjusted Rand index, outliers as singletons."""
    return float(adjusted_rand_score(truth, singles(labels)))


# --- radius -----------------------------------------------------------------------------------


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
        choice = auto_radius(graph, min_samples=MIN_SAMPLES, neighbours=K1[variant])
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


def result(
    labels: NDArray[np.int64],
    people: NDArray[np.int64],
    radius: float | None = None,
    doubts: tuple[str, ...] = (),
) -> RuleResult:
    """Score labels."""
    nmi = float(normalized_mutual_info_score(people, singles(labels)))
    outliers = float((labels == OUTLIER).mean())
    return RuleResult(radius, _ari(people, labels), doubts, int(labels.max()) + 1, outliers, nmi)


def radius(options: argparse.Namespace) -> None:
    """Rules on synthetic sites, or on the real features given."""
    if options.features:
        real_radius(options)
        return
    sizes, noises = options.sizes or (500, 2000, 8000, 32000), (0.6, 1.0, 1.4)
    rows: Rows = []
    for images, per_person, noise, variant in itertools.product(sizes, (4, 8, 17, 40), noises, K1):
        data = site(images, per_person, noise=noise, seed=images + per_person).centred()
        found = {name: asdict(rule) for name, rule in radius_rules(data, variant).items()}
        case = {"images": images, "per_person": per_person, "noise": noise, "variant": variant}
        rows = _add(options.out / "radius.json", case | {"rules": found}, *case)
    print_losses(rows)
    print_failures(rows)


def loss(row: Mapping[str, Any], rule: str) -> float:
    """Adjusted Rand index lost against the best radius; all of it where the rule refused."""
    return float(row["rules"]["best"]["ari"] - (row["rules"][rule]["ari"] or 0.0))


def print_losses(rows: Sequence[Mapping[str, Any]]) -> None:
    """Worst loss of each rule by size and images per person."""
    head(
        "Largest loss of adjusted Rand index against the best radius, of three noises and both "
        "variants.",
        *("N", "images per person", "best", "auto", "pairs", "rho", "auto > 0.05"),
        *("of those in doubt", "in doubt without need"),
    )
    for key in sorted({(row["images"], row["per_person"]) for row in rows}):
        group = [row for row in rows if (row["images"], row["per_person"]) == key]
        best = [row["rules"]["best"]["ari"] for row in group]
        worst = (max(loss(row, rule) for row in group) for rule in ("auto", "pairs", "rho"))
        failed = np.array([loss(row, "auto") > GOOD_ENOUGH for row in group])
        doubt = np.array([bool(row["rules"]["auto"]["doubts"]) for row in group])
        line(f"{key[0]:,}", key[1], f"{min(best):.3f} - {max(best):.3f}",
             *(f"{w:.3f}" for w in worst), f"{failed.sum()} of {len(group)}",
             (failed & doubt).sum(), (doubt & ~failed).sum())  # fmt: skip


def print_failures(rows: Sequence[Mapping[str, Any]]) -> None:
    """All cases in which auto is farther off than it may be."""
    columns = ("N", "images per person", "noise", "variant", "best", "auto", "loss", "it said")
    head("Cases in which auto loses more than 0.05.", *columns)
    for row in rows:
        if loss(row, "auto") > GOOD_ENOUGH:
            best, auto = row["rules"]["best"], row["rules"]["auto"]
            line(f"{row['images']:,}", row["per_person"], row["noise"], row["variant"], _at(best),
                 _at(auto), f"{loss(row, 'auto'):.3f}", _said(auto))  # fmt: skip


def _said(auto: Mapping[str, Any]) -> str:
    return "; ".join(auto["doubts"]) or "nothing"


def _at(rule: Mapping[str, Any]) -> str:
    return "refused" if rule["ari"] is None else f"{rule['ari']:.3f} at {rule['radius']:.3f}"


def real_radius(options: argparse.Namespace) -> None:
    """Rules on real features, of all people and of some, then all clusterings of all people."""
    files = itertools.zip_longest(options.features, options.people, options.cameras, options.name)
    real = {name or file.stem: _read(file, *beside) for file, *beside, name in files}
    head(
        "ARI at the radius of each rule.",
        *("features", "N", "people", "cameras", "variant", "best", "auto", "pairs", "rho"),
        *("auto loses", "it said"),
    )
    whole: dict[tuple[str, str], dict[Variant, Rules]] = {}
    for name, data in real.items():
        for part in _subsets(data, options.subsets):
            for way, shown in _ways(part).items():
                rules = {variant: radius_rules(shown, variant) for variant in K1}
                whole[name, way] = rules  # the last part is whole
                print_real(name, way, shown, rules)
    head(
        "ARI and NMI to the people, outliers as singletons.",
        *("features", "variant", "clustering", "radius", "clusters", "outliers", "ARI", "NMI"),
    )
    for name, data in real.items():
        for way, shown in _ways(data).items():
            print_clusterings(f"{name}, {way}", shown, whole[name, way])


def _read(features: Path, people: Path, cameras: Path | None) -> Features:
    table = read_features(features)
    truth = np.load(people)
    codes = np.zeros(len(truth), np.int64) if cameras is None else np.load(cameras)
    return Features(table, truth, codes.astype(np.int64))


def _subsets(data: Features, sizes: Sequence[int]) -> Iterator[Features]:
    """All people, and random people with about so many images."""
    order = np.random.default_rng(0).permutation(np.unique(data.people))
    counts = np.cumsum([(data.people == person).sum() for person in order])
    for size in sizes:
        if size < len(data.people):
            kept = order[: int(np.searchsorted(counts, size)) + 1]
            yield data.subset(np.flatnonzero(np.isin(data.people, kept)))
    yield data


def _ways(data: Features) -> dict[str, Features]:
    ways = {"as extracted": data}
    return ways | {"centred": data.centred()} if data.cameras.any() else ways


def print_real(name: str, way: str, data: Features, rules: Mapping[Variant, Rules]) -> None:
    """A table row per variant."""
    for variant, results in rules.items():
        row = {"rules": {rule: asdict(found) for rule, found in results.items()}}
        radii = (_at(row["rules"][rule]) for rule in ("best", "auto", "pairs", "rho"))
        line(name, f"{len(data.people):,}", len(np.unique(data.people)), way, variant, *radii,
             f"{loss(row, 'auto'):.3f}", _said(row["rules"]["auto"]))  # fmt: skip


def print_clusterings(name: str, data: Features, rules: Mapping[Variant, Rules]) -> None:
    """All clusterings of the same features."""
    features = data.features.astype(np.float32)
    for variant, results in rules.items():
        for rule, found in results.items():
            print_clustering(name, variant, f"dbscan {rule}", found)
        graph = JaccardGraph(features, k1=K1[variant], k2=K2, variant=variant)
        tree = cluster_hdbscan(graph.distances(1.0), min_samples=8, min_cluster_size=8)
        print_clustering(name, variant, "hdbscan 8, 8", result(tree.labels, data.people))
    counts = {"N/20": auto_clusters(len(features), 2), "people": len(np.unique(data.people))}
    for rule, clusters in counts.items():
        means = cluster_kmeans(features, clusters, seed=1)
        print_clustering(name, "", f"k-means, K = {rule}", result(means.labels, data.people))


def print_clustering(name: str, variant: str, rule: str, found: RuleResult) -> None:
    """A table row."""
    if found.ari is None:
        line(name, variant, rule, "refused", "", "", "", "")
        return
    radius = "" if found.radius is None else f"{found.radius:.3f}"
    line(name, variant, rule, radius, found.clusters, f"{found.outliers:.1%}",
         f"{found.ari:.3f}", f"{found.nmi:.3f}")  # fmt: skip


# --- pictures ---------------------------------------------------------------------------------


def pictures(options: argparse.Namespace) -> None:
    """Draw what the other parts measured."""
    options.pictures.mkdir(parents=True, exist_ok=True)
    measured = json.loads((options.out / f"scale-{options.variant}.json").read_text())
    time_of = [(row["images"], graph_seconds(row)) for row in measured]
    memory = [(row["images"], [max(c["extra"].values()) / 1e9 for c in row["ours"]])
              for row in measured]  # fmt: skip
    draw_scale(options.pictures / "graph-time.png", "seconds, neighbours excluded", time_of,
               _rival_points(measured, lambda c: sum(c["seconds"].values())))  # fmt: skip
    draw_scale(options.pictures / "graph-memory.png", "extra memory at the peak, GB", memory,
               _rival_points(measured, lambda c: max(c["extra"].values()) / 1e9))  # fmt: skip
    draw_radius(
        options.pictures / "graph-radius.png", json.loads((options.out / "radius.json").read_text())
    )


Points = Sequence[tuple[int, Sequence[float]]]


def _rival_points(
    measured: Sequence[Mapping[str, Any]], figure: Callable[[Mapping[str, Any]], float]
) -> dict[str, Points]:
    points: dict[str, list[tuple[int, list[float]]]] = {}
    for row in measured:
        for name, found in row["rivals"].items():
            if found["costs"]:
                costs = [figure(cost) for cost in found["costs"]]
                points.setdefault(name, []).append((row["images"], costs))
    return dict(points)


def draw_scale(file: Path, title: str, ours: Points, rivals: Mapping[str, Points]) -> None:
    """Log-log, medians; the dense line goes on dotted by N^2 to where only ours was measured."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, points in {"sparse (ours)": ours, **rivals}.items():
        sizes, values = [n for n, _ in points], [float(np.median(v)) for _, v in points]
        (drawn,) = axis.loglog(sizes, values, marker="o", ms=4, label=name)
        if sizes[-1] < ours[-1][0]:
            farther = np.array([sizes[-1], ours[-1][0]])
            squared = values[-1] * (farther / sizes[-1]) ** 2
            label = f"{name}, by N squared (not run)"
            axis.loglog(farther, squared, ":", color=drawn.get_color(), label=label)
    _finish(axis, [n for n, _ in ours], title)
    axis.set_xlabel("images (N)", fontsize=8)
    axis.legend(fontsize=7)
    figure.savefig(file, dpi=130)


def draw_radius(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Radius and what it costs against N, 17 images per person, a panel per variant."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots(2, len(K1), sharex=True, sharey="row")
    names = {"best": "best for the labels", "auto": "auto", "pairs": "10.35 pairs per image",
             "rho": "rho = 1.6e-3"}  # fmt: skip
    for panel, variant in enumerate(K1):
        shown = [row for row in rows if row["variant"] == variant
                 and row["per_person"] == PER_PERSON and row["noise"] == 1.0]  # fmt: skip
        sizes = [row["images"] for row in shown]
        for top, key in enumerate(("radius", "ari")):
            for rule, label in names.items():
                values = [row["rules"][rule][key] for row in shown]
                values = [np.nan if value is None else value for value in values]
                style = {"color": "black", "ls": "--", "zorder": 3} if rule == "best" else {}
                axes[top, panel].semilogx(sizes, values, marker="o", ms=4, label=label, **style)
            title = f"{'radius' if key == 'radius' else 'adjusted Rand index'}, {variant}"
            _finish(axes[top, panel], sizes, title)
        axes[1, panel].set_xlabel("images (N)", fontsize=8)
    axes[1, 0].legend(fontsize=7)
    figure.savefig(file, dpi=130)


def _finish(axis: Any, sizes: Sequence[int], title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axis.set_xticks([], minor=True)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)


# --- running ----------------------------------------------------------------------------------


def _jsonable(cost: Cost) -> dict[str, Any]:
    return {"seconds": dict(cost.seconds), "extra": dict(cost.extra)}


Rows = list[dict[str, Any]]


def _add(file: Path, row: dict[str, Any], *keys: str) -> Rows:
    """Put a row into a file in place of an older one of the same case."""
    rows: Rows = json.loads(file.read_text()) if file.exists() else []
    rows = [old for old in rows if any(old[key] != row[key] for key in keys)] + [row]
    rows.sort(key=lambda row: [row[key] for key in keys])
    file.write_text(json.dumps(rows, indent=1))
    return rows


def _runs(public: Path) -> bool:
    """Try a public file on a few images; say so if it cannot run here."""
    few = unit_rows(site(50, PER_PERSON).features)
    try:
        public_jaccard(public, few, k1=10, k2=2)
    except (ImportError, AttributeError, OSError, SyntaxError, TypeError) as error:
        print(f"{public} is left out, it does not run here: {error}")
        return False
    return True


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "labels": labels,
    "scale": scale,
    "whole": whole,
    "hdbscan": hdbscan_library,
    "radius": radius,
    "pictures": pictures,
}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    add("--sizes", nargs="+", type=int, help="N; each part has its own default")
    add("--repeats", type=int, default=3, help="scale: runs of each code, in turn")
    add("--dense", action="store_true", help="scale: the dense code, and --public, beside ours")
    add("--variant", choices=K1, default="faiss", help="scale, whole, pictures")
    add("--public", type=Path, action="append", default=[], metavar="FILE.py",
        help="SpCL's faiss_rerank.py or OpenUnReID's compute_dist.py; repeatable")  # fmt: skip
    add("--features", type=Path, action="append", default=[], help="radius: real .npy; repeatable")
    add("--people", type=Path, action="append", default=[], help="of each --features")
    add("--cameras", type=Path, action="append", default=[], help="of each --features, or of none")
    add("--name", action="append", default=[], help="of each --features, for the table")
    add("--subsets", nargs="+", type=int, default=[], help="radius: images of random people")
    add("--out", type=Path, default=Path("runs/graph"), help="figures of the parts")
    add("--pictures", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    if len(options.people) != len(options.features):
        parser.error("give one --people for each --features")
    if options.cameras and len(options.cameras) != len(options.features):
        parser.error("give --cameras for all --features or for none")
    if len(options.name) > len(options.features):
        parser.error("more --name than --features")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    options.public = [file for file in options.public if _runs(file)]
    for part in options.parts:
        print(f"\n## {part}\n", flush=True)
        PARTS[part](options)


if __name__ == "__main__":
    main()
