"""Part `scale`: time and memory against N, ours and dense in turn."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alone import alone, memory
from benchmarks.graph.cost import Cost, dense_cost, sparse_cost, write_lists
from benchmarks.graph.sites import PER_PERSON, site
from benchmarks.graph.tables import Rows, add_row, head, line, read_rows, spread

DENSE_ARRAYS = 2.7
"""N x N float32 arrays that the dense code needs, with room."""


def scale(options: argparse.Namespace) -> None:
    """Time and memory against N."""
    rivals: dict[str, Path | None] = {}
    if options.dense:
        rivals = {"dense": None} | {file.stem: file for file in options.public}
    rows: Rows = []
    for images in options.sizes or (12936, 32621, 100000):
        with tempfile.TemporaryDirectory() as folder:
            row = _scale_row(images, rivals, options, Path(folder))
        file = options.out / f"scale-{options.variant}.json"
        rows = add_row(file, with_earlier_rivals(row, read_rows(file)), "images")
    print_scale(rows)
    print_rivals(rows)


def _scale_row(
    images: int, rivals: Mapping[str, Path | None], options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Run ours and each rival in turn, as often as asked for."""
    features, lists = folder / "features.npy", folder / "lists.npz"
    np.save(features, site(images, PER_PERSON, width=256).centered().features)
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


def with_earlier_rivals(row: Mapping[str, Any], saved: Rows) -> dict[str, Any]:
    """Add the rivals that were measured earlier and not now, with our runs beside theirs."""
    earlier = {
        name: {"ours": old["ours"]} | found
        for old in saved
        if old["images"] == row["images"]
        for name, found in old["rivals"].items()
    }
    return {**row, "rivals": earlier | row["rivals"]}


def _jsonable(cost: Cost) -> dict[str, Any]:
    return {"seconds": dict(cost.seconds), "extra": dict(cost.extra)}


def _too_large(images: int) -> str | None:
    """Why the dense code is not even tried."""
    needed, free = DENSE_ARRAYS * 4 * images**2, memory("MemAvailable", "/proc/meminfo")
    if needed < free:
        return None
    return f"not run: needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"


def print_scale(rows: Sequence[Mapping[str, Any]]) -> None:
    """Tables of time, memory and growth of ours."""
    stages = ("neighbors", "encoding", "jaccard", "dbscan", "radius")
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
        "Neighbors excluded (encoding counts as jaccard); ratios of runs beside each other.",
        *("N", "against", "its jaccard, s", "its dbscan, s", "its extra GB"),
        *("jaccard: times faster", "jaccard and dbscan: times faster", "labels that differ"),
    )
    for row, (name, found) in _pairs(rows):
        beside = {**row, **found}  # an earlier rival has its own `ours`
        costs, problem = found["costs"], found["problem"]
        if problem:
            line(f"{row['images']:,}", name, problem, "", "", "", "", "")
            continue
        jaccard, dbscan = (
            np.array([cost["seconds"][stage] for cost in costs]) for stage in ("jaccard", "dbscan")
        )
        ours = np.array(graph_seconds(beside))
        without = ours - [cost["seconds"]["dbscan"] for cost in beside["ours"]]
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
