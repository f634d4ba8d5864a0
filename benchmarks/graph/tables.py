"""Tables in Markdown, and the files that keep the figures in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.json_text import json_text

Rows = list[dict[str, Any]]


def head(title: str, *columns: str) -> None:
    """Start a Markdown table."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def line(*cells: object) -> None:
    """A row of it."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def spread(figures: Sequence[float] | NDArray[np.floating], digits: int = 2) -> str:
    """Median (smallest - largest)."""
    middle, low, high = (f"{f(figures):.{digits}f}" for f in (np.median, np.min, np.max))
    return f"{middle} ({low} - {high})"


def read_rows(file: Path) -> Rows:
    """Rows that an earlier run put there."""
    rows: Rows = json.loads(file.read_text()) if file.exists() else []
    return rows


def add_row(file: Path, row: dict[str, Any], *keys: str) -> Rows:
    """Put a row into a file in place of an older one of the same case."""
    rows = [old for old in read_rows(file) if any(old[key] != row[key] for key in keys)] + [row]
    rows.sort(key=lambda row: [row[key] for key in keys])
    file.write_text(json_text(rows, indent=1))
    return rows
