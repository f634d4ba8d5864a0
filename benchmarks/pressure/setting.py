"""What all attacks of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """A run of the benchmark.

    folder: for what is written and removed again. code: the checkout whose server is attacked.
    scale: factor of all sizes; 1 is what the targets are stated for. seconds: how long an attack
    without an end of its own lasts. settle_s: at rest before it, and after it.
    minutes: how long the mixed attack lasts. seed: of crops and networks. backbone: of the models.
    """

    folder: Path
    code: Path
    scale: float
    seconds: float
    settle_s: float
    minutes: float
    seed: int
    backbone: str

    def size(self, full: int, at_least: int = 1) -> int:
        """A size at this scale; `full` at scale 1."""
        return max(round(full * self.scale), at_least)
