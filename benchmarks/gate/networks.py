"""The networks that runs kept: the one place that knows where each round's is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapt.runs import Run
from models.backbones.net import ReIDNet


@dataclass(frozen=True)
class KeptNetwork:
    """A network of a run. round: its number; None for the last one of a run that kept no rounds."""

    run: Run
    round: int | None

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


def kept_networks(path: Path) -> list[KeptNetwork]:
    """Every kept round's network, oldest first; else the last network alone.

    None where the run left no network. Raises RunError when `path` is no run folder.
    """
    run = Run.open(path)
    rounds = [KeptNetwork(run, number) for number in run.kept_rounds()]
    last = KeptNetwork(run, None)
    return rounds or ([last] if last.file.exists() else [])
