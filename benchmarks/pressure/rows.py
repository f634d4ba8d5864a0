"""Figures as rows: target, what was measured, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.pressure.trial import (
    AFTER,
    BOUND,
    ENROLL_P99,
    ERRORS,
    SITE_P99,
    TRACEBACKS,
    Attack,
    Found,
)
from models.json_text import json_text

TARGETS: dict[str, tuple[str, float]] = {
    AFTER: ("at most", 1.1),
    BOUND: ("at most", 1.0),
    SITE_P99: ("at most", 1.0),
    ENROLL_P99: ("at most", 1.0),
    ERRORS: ("at most", 0.0),
    TRACEBACKS: ("at most", 0.0),
}
"""What each attack has to meet."""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure of an attack. target: "" where it has none. values: of each repeat."""

    attack: str
    figure: str
    target: str
    values: tuple[float, ...]
    verdict: str

    @property
    def median(self) -> float:
        """Of the repeats."""
        return float(np.median(self.values))

    def line(self) -> str:
        """A Markdown table row."""
        low, high = min(self.values), max(self.values)
        spread = f"{number(low)} - {number(high)}" if len(self.values) > 1 else ""
        cells = (self.attack, self.figure, self.target, number(self.median), spread, self.verdict)
        return f"| {' | '.join(cells)} |"


def rows_of(attack: Attack, repeats: Sequence[Found]) -> list[Row]:
    """Each figure of an attack; the median is held against its target."""
    targets = TARGETS | dict(attack.targets)
    return [
        _row(attack.name, figure, targets.get(figure), [each.figures[figure] for each in repeats])
        for figure in repeats[0].figures
    ]


def _row(
    attack: str, figure: str, target: tuple[str, float] | None, values: Sequence[float]
) -> Row:
    if target is None:
        return Row(attack, figure, "", tuple(values), "")
    kind, limit = target
    median = float(np.median(values))
    met = median <= limit if kind == "at most" else median >= limit
    return Row(attack, figure, f"{kind} {limit:g}", tuple(values), "met" if met else "not met")


def number(value: float) -> str:
    """Three digits, or all of a large one."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(about: Mapping[str, Any], rows: Sequence[Row], reasons: Mapping[str, Any]) -> str:
    """The results for people."""
    lines = [
        "# The server under attack",
        "",
        *(f"- {name}: {value}" for name, value in about.items()),
        "",
        "| attack | figure | target | median | low - high | verdict |",
        "|---|---|---|---|---|---|",
        *(row.line() for row in rows),
        "",
        "| attack | how calls ended |",
        "|---|---|",
        *(
            f"| {attack} | {', '.join(f'{count} {reason}' for reason, count in ends.items())} |"
            for attack, ends in reasons.items()
        ),
        "",
    ]
    return "\n".join(lines)


def as_json(about: Mapping[str, Any], rows: Sequence[Row], reasons: Mapping[str, Any]) -> str:
    """The same for programs."""
    made = {"about": about, "rows": [asdict(row) for row in rows], "reasons": reasons}
    return json_text(made, indent=1) + "\n"
