"""The networks that runs kept: the one place that knows where each round's is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adapt.runs.folder import Run
from models.backbones.net import ReIDNet

NetworkStage = Literal["source", "round", "last"]
"""What a network is to a site: what adaptation began with, one of its rounds, or its end."""


@dataclass(frozen=True)
class KeptNetwork:
    """A network of a run. round: its number; None for the last one of a run that kept no rounds."""

    run: Run
    round: int | None
    stage: NetworkStage

    @property
    def name(self) -> str:
        """For tables."""
        return self.run.path.name + ("" if self.round is None else f"/{self.round:02d}")

    @property
    def file(self) -> Path:
        """Its weights on disk."""
        if self.round is None:
            return self.run.path / "model.safetensors"
        return self.run.path / "rounds" / f"{self.round:04d}.safetensors"

    def load(self) -> ReIDNet:
        """The network, in eval mode, on the CPU."""
        return self.run.network(self.round)


def kept_networks(path: Path, rounds: Collection[int] | None = None) -> list[KeptNetwork]:
    """Every kept round's network of an adaptation, oldest first; else the last network alone.

    rounds: numbers to take beside the last one; None for all.
    None where the run left no network. Raises RunError when `path` is not a run folder.
    """
    run = Run.open(path)
    *before, last = run.kept_rounds() or (None,)
    wanted = [number for number in before if rounds is None or number in rounds]
    found = [KeptNetwork(run, number, "round") for number in wanted]
    end = KeptNetwork(run, last, "last")
    return [*found, end] if end.file.exists() else found


def source_network(path: Path) -> KeptNetwork:
    """The last network of a run, as the model in use before a site is learned."""
    return KeptNetwork(Run.open(path), None, "source")
