"""Which figures of a run are drawn, and what an operator has to know to read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.report.charts import Chart, bar_chart, line_chart, stacked_chart
from adapt.runs.listing import series
from adapt.types import OUTLIER

RoundRows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PlannedChart:
    """One chart: base names of figures (`adapt.runs.listing.series`) -> what people call them."""

    title: str
    caption: str
    figures: Mapping[str, str]
    unit: str = ""
    share: bool = False
    log: bool = False
    scale: float = 1.0
    """Of the unit in that of the figures."""


PLANNED = (
    PlannedChart(
        "Loss",
        "What training pushes down, summed over its parts; it has no unit. It should fall and "
        "level out. It may rise for a round when the clusters change.",
        {"loss": "loss"},
    ),
    PlannedChart(
        "Clusters",
        "Groups of crops, each taken for one person. Should settle near the number of people.",
        {"clusters": "clusters"},
        "clusters",
    ),
    PlannedChart(
        "Crops in no cluster",
        "Share of the crops; a round does not learn from them. Should fall; above 60 % most of "
        "the site is not learned from.",
        {"outlier_share": "in no cluster"},
        share=True,
    ),
    PlannedChart(
        "Size of clusters",
        "Crops per cluster: smallest, middle and largest one, on a logarithmic axis. A largest one "
        "that runs away holds several people.",
        {
            "cluster_size_max": "largest",
            "cluster_size_median": "middle",
            "cluster_size_min": "smallest",
        },
        "crops",
        log=True,
    ),
    PlannedChart(
        "Clusters seen by several cameras",
        "Share of the clusters with crops of two cameras or more. Near 0 the model sorts by "
        "camera, not by person.",
        {"cross_camera_share": "seen by several"},
        share=True,
    ),
    PlannedChart(
        "Agreement between rounds",
        "Agreement: how alike the clusters of this round and the one before are (adjusted Rand "
        "index; 1 is equal, 0 is chance). Changed: share of crops that moved to another cluster. "
        "Agreement of 0.9 and more: the run has settled.",
        {"agreement": "agreement", "changed_share": "changed"},
    ),
    PlannedChart(
        "Scores on labelled crops",
        "mAP and CMC on the labelled set of --validation. Nothing was chosen by them.",
        {
            "val_mAP": "mAP",
            **{f"val_cmc{rank}": f"CMC-{rank}" for rank in (1, 5, 10)},
        },
        share=True,
    ),
    PlannedChart(
        "Clusters beside the labels",
        "How well the round's clusters are the people that --validation names, where it holds the "
        "site's very crops: adjusted Rand index (1 equal, 0 chance) over crops in clusters, and "
        "F-measure of pairs over all crops. Nothing was chosen by them.",
        {"val_ari": "Rand index", "val_pair_f": "F of pairs"},
    ),
    PlannedChart(
        "Radius",
        "How far two crops may be apart and still be neighbors (DBSCAN), in re-ranked distance. "
        "It is found in the first round and kept.",
        {"radius": "radius"},
    ),
    PlannedChart(
        "Active triplets",
        "Share of the hardest triplets of a batch that are not satisfied yet; the method's page "
        "says by which margin. Should fall, and not to 0 at once.",
        {"active": "active"},
        share=True,
    ),
    PlannedChart(
        "Learning rate",
        "How large training's steps are, on a logarithmic axis, as the recipe plans it.",
        {"lr": "learning rate"},
        log=True,
    ),
    PlannedChart(
        "Memory",
        "The peak of the run's process since it began, or was last resumed: main memory "
        "with mapped files, and of a GPU what its tensors held.",
        {"memory_bytes": "main memory", "memory_gpu_bytes": "GPU"},
        "GB",
        scale=1e9,
    ),
)


COUNTS = ("val_queries", "val_queries_without_match")
"""Figures that no round changes; a page says them in words (`adapt.report.verdict`)."""


def round_charts(rounds: RoundRows) -> list[Chart]:
    """Charts of all figures that the rounds have; those nobody planned for come last."""
    drawn, charts = {"round", *COUNTS}, []
    for each in PLANNED:
        names = {
            key: name + key.removeprefix(base).replace("_", " ")
            for base, name in each.figures.items()
            for key in _keys(rounds, base)
        }
        drawn |= set(names)
        if names:
            charts.append(
                line_chart(
                    each.title,
                    each.caption,
                    _scaled(rounds, names, each.scale),
                    names,
                    unit=each.unit,
                    share=each.share,
                    log=each.log,
                )
            )
    parts = _begin(rounds, "loss_")
    if parts:
        text = "The terms of the loss before they are weighted; the method's page explains them."
        charts.insert(
            1 if "loss" in drawn else 0, line_chart("Parts of the loss", text, rounds, parts)
        )
    stages = _begin(rounds, "seconds_")
    if stages:
        text = "Seconds of each round: embedding the crops, labelling them by parts, training."
        charts.append(stacked_chart("Time", text, rounds, stages, unit="seconds"))
    return [*charts, *_others(rounds, drawn | set(parts) | set(stages))]


def label_charts(labels: NDArray[np.int64], across: NDArray[np.int64] | None) -> list[Chart]:
    """Charts of one set of labels (N,).

    across: clusters seen by 1, 2, ... cameras (`cameras_per_cluster`); None without cameras.
    """
    sizes = np.sort(np.bincount(labels[labels != OUTLIER]))[::-1]
    charts = [
        bar_chart(
            "Crops in each cluster",
            "Clusters from the largest to the smallest. A few far above the rest may hold several "
            "people.",
            [float(size) for size in sizes],
            first=1,
            across="cluster, by size",
            up="crops",
        )
    ]
    if across is not None:
        charts.append(
            bar_chart(
                "Cameras of each cluster",
                "How many clusters were seen by one camera, by two, and so on.",
                [float(count) for count in across],
                first=1,
                across="cameras",
                up="clusters",
            )
        )
    return charts


def _others(rounds: RoundRows, drawn: set[str]) -> list[Chart]:
    """A chart for each further figure; numbered ones of one name share it."""
    left = [key for key in _numbers(rounds) if key not in drawn]
    bases = dict.fromkeys(re.sub(r"_\d+$", "", key) for key in left)
    return [
        line_chart(
            base.replace("_", " ").capitalize(),
            "Logged by the method; its page explains it.",
            rounds,
            {key: key.replace("_", " ") for key in left if re.sub(r"_\d+$", "", key) == base},
        )
        for base in bases
    ]


def _scaled(rounds: RoundRows, names: Iterable[str], scale: float) -> RoundRows:
    """The rounds with figures of some names divided."""
    return [{**row, **{key: row[key] / scale for key in names if key in row}} for row in rounds]


def _keys(rounds: RoundRows, base: str) -> list[str]:
    return list(dict.fromkeys(key for row in rounds for key in series(row, base)))


def _begin(rounds: RoundRows, prefix: str) -> dict[str, str]:
    """Figures whose names begin so -> the rest of the name in words."""
    return {
        key: key.removeprefix(prefix).replace("_", " ")
        for key in _numbers(rounds)
        if key.startswith(prefix)
    }


def _numbers(rounds: RoundRows) -> list[str]:
    keys = dict.fromkeys(key for row in rounds for key in row)
    return [key for key in keys if all(isinstance(r.get(key, 0.0), int | float) for r in rounds)]
