"""Figures over rounds, and bars, as SVG that takes the page's text color."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from adapt.report.palette import COLORS

_INK = "#010203"
"""Stands for the page's text color, which is not known here."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resight",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(linestyle=["-", "--"]) * cycler(color=COLORS),
}


@dataclass(frozen=True)
class Chart:
    """A drawing with its title above and, below it, how to read it."""

    title: str
    caption: str
    svg: str


def line_chart(
    title: str,
    caption: str,
    rounds: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    unit: str = "",
    share: bool = False,
    log: bool = False,
) -> Chart:
    """Draw figures over rounds.

    names: name of a figure in `rounds` -> what the legend calls it. A round without the figure
    (agreement with the round before, in the first) is a gap. unit: on the vertical axis.
    share: figures are fractions, drawn from 0 to 100 %, so that what has not moved looks so.
    log: logarithmic axis; what is 0 is then a gap.
    """

    def draw(axis: Axes) -> None:
        x = [row["round"] for row in rounds]
        for key, name in names.items():
            values = np.array([row.get(key, np.nan) for row in rounds], float)
            if log:
                values[values <= 0] = np.nan
            axis.plot(x, values, marker="o", ms=3, label=name)
        if log:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        elif share:
            axis.set_ylim(0, 1.02)
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        else:
            axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
        axis.set_xlabel("round")
        axis.set_ylabel(unit)
        axis.xaxis.set_major_locator(_whole_numbers())

    return Chart(title, caption, _svg(title, draw))


def stacked_chart(
    title: str,
    caption: str,
    rounds: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    unit: str,
) -> Chart:
    """Draw figures that add up, as a stack of bars for each round.

    A round without one of the figures is a gap: its sum is not known.
    """

    def draw(axis: Axes) -> None:
        whole = [row for row in rounds if all(key in row for key in names)]
        x = [row["round"] for row in whole]
        foot = np.zeros(len(whole))
        for (key, name), color in zip(names.items(), COLORS * 9, strict=False):
            values = np.array([row[key] for row in whole], float)
            axis.bar(x, values, bottom=foot, label=name, color=color)
            foot += values
        axis.set_xlabel("round")
        axis.set_ylabel(unit)
        axis.xaxis.set_major_locator(_whole_numbers())

    return Chart(title, caption, _svg(title, draw))


def bar_chart(
    title: str,
    caption: str,
    values: Sequence[float],
    *,
    first: int,
    across: str,
    up: str,
) -> Chart:
    """Draw one bar per value. first: number below the first bar. across, up: names of the axes."""

    def draw(axis: Axes) -> None:
        axis.bar(range(first, first + len(values)), values, width=0.9, color=COLORS[0])
        axis.set_xlabel(across)
        axis.set_ylabel(up)
        axis.xaxis.set_major_locator(_whole_numbers())
        axis.yaxis.set_major_locator(_whole_numbers())

    return Chart(title, caption, _svg(title, draw))


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def _svg(title: str, draw: Any) -> str:
    """Draw on one axis and give an <svg> element whose ids are its own on a page of several."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axis = figure.subplots()
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        draw(axis)
        named = axis.get_legend_handles_labels()[1]
        if len(named) > 1:
            figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    own = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
