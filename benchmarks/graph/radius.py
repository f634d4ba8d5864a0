"""Part `radius`: rules for DBSCAN's radius against the best that labels could pick."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.graph.real_radius import real_radius
from benchmarks.graph.rules import at, loss, radius_rules, said
from benchmarks.graph.settings import K1
from benchmarks.graph.sites import site
from benchmarks.graph.tables import Rows, add_row, head, line

GOOD_ENOUGH = 0.05
"""Adjusted Rand index that a rule may lose against the best radius."""


def radius(options: argparse.Namespace) -> None:
    """Rules on synthetic sites, or on the real features given."""
    if options.features:
        real_radius(options)
        return
    sizes = options.sizes or (500, 2000, 8000, 32000)
    cases = itertools.product(sizes, options.per_person, options.noises, K1)
    rows: Rows = []
    for images, per_person, noise, variant in cases:
        data = site(images, per_person, noise=noise, seed=images + per_person).centered()
        found = {name: asdict(rule) for name, rule in radius_rules(data, variant).items()}
        case = {"images": images, "per_person": per_person, "noise": noise, "variant": variant}
        rows = add_row(options.out / "radius.json", case | {"rules": found}, *case)
    print_losses(rows)
    print_failures(rows)


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
            line(f"{row['images']:,}", row["per_person"], row["noise"], row["variant"], at(best),
                 at(auto), f"{loss(row, 'auto'):.3f}", said(auto))  # fmt: skip
