"""Two ways of doing one thing, side by side in one run: ratio, median, spread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """How many times faster `fast` was than `slow`, over alternating repeats.

    low, high: smallest and largest ratio of one pair of repeats.
    """

    name: str
    median: float
    low: float
    high: float
    fast_per_second: float
    slow_per_second: float
    unit: str

    def row(self) -> str:
        """A Markdown table row."""
        return (
            f"| {self.name} | {self.median:.2f}x | {self.low:.2f} - {self.high:.2f} | "
            f"{self.fast_per_second:.0f} / {self.slow_per_second:.0f} {self.unit}/s |"
        )


def compare(
    name: str,
    fast: Callable[[], object],
    slow: Callable[[], object],
    *,
    items: int,
    unit: str,
    repeats: int = 7,
) -> Ratio:
    """Time both ways `repeats` times in turn; each call handles `items` items."""
    fast(), slow()  # warm up
    times = np.array([[_seconds(fast), _seconds(slow)] for _ in range(repeats)])
    ratios = times[:, 1] / times[:, 0]
    fast_s, slow_s = np.median(times, axis=0)
    return Ratio(
        name,
        float(np.median(ratios)),
        float(ratios.min()),
        float(ratios.max()),
        items / float(fast_s),
        items / float(slow_s),
        unit,
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
