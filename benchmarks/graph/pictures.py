"""Part `pictures`: draws what `scale` and `radius` measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.graph.scale import graph_seconds
from benchmarks.graph.settings import K1
from benchmarks.graph.sites import PER_PERSON

Points = Sequence[tuple[int, Sequence[float]]]


def pictures(options: argparse.Namespace) -> None:
    """Draw what the other parts measured."""
    options.pictures.mkdir(parents=True, exist_ok=True)
    measured = json.loads((options.out / f"scale-{options.variant}.json").read_text())
    time_of = [(row["images"], graph_seconds(row)) for row in measured]
    memory = [(row["images"], [max(c["extra"].values()) / 1e9 for c in row["ours"]])
              for row in measured]  # fmt: skip
    draw_scale(options.pictures / "graph-time.png", "seconds, neighbors excluded", time_of,
               _rival_points(measured, lambda c: sum(c["seconds"].values())))  # fmt: skip
    draw_scale(options.pictures / "graph-memory.png", "extra memory at the peak, GB", memory,
               _rival_points(measured, lambda c: max(c["extra"].values()) / 1e9))  # fmt: skip
    draw_radius(
        options.pictures / "graph-radius.png", json.loads((options.out / "radius.json").read_text())
    )


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
    """Log-log, medians; the dense line continues dotted by N^2 to where only ours was measured."""
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
