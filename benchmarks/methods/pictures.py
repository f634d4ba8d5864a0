"""Part `pictures`: draws what another part found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.methods.results import PROTOCOLS

Scores = Sequence[Mapping[str, Any]]


def pictures(options: argparse.Namespace) -> None:
    """Draw the scores in `--results`."""
    found = json.loads(options.results.read_text())
    options.pictures.mkdir(parents=True, exist_ok=True)
    draw(
        options.pictures / f"methods-{options.results.stem}.png",
        found["scores"],
        {row["model"] for row in found["controls"]},
    )


def draw(file: Path, scores: Scores, controls: set[str]) -> None:
    """mAP by model: each seed a dot, the mean a line; controls in gray."""
    models = list(dict.fromkeys(row["model"] for row in scores))[::-1]
    figure = Figure(figsize=(9, 1 + 0.25 * len(models)), layout="constrained")
    axes = figure.subplots(1, len(PROTOCOLS), sharey=True)
    for axis, protocol in zip(axes, PROTOCOLS, strict=True):
        for row, model in enumerate(models):
            maps = [s["mAP"] for s in scores if (s["model"], s["protocol"]) == (model, protocol)]
            color = "gray" if model in controls else "C0"
            axis.plot(maps, [row] * len(maps), "o", ms=4, color=color, alpha=0.8)
            axis.plot(np.mean(maps), row, "|", ms=14, color=color)
        axis.set_title(f"mAP, {protocol}", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(models)), models)
    figure.savefig(file, dpi=130)
