"""The networks that runs kept: the one place that knows where each round's is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapt.checkpoint import load_network
from adapt.runs import Run
from models.backbones.net import ReIDNet

ROUNDS = "rounds"
LAST = "model"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class KeptNetwork:
    """A network of one round. round: its number as in the file's name, or `model` for the last."""

    run: Run
    round: str
    file: Path

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.run.path.name}/{self.round}"

    def load(self) -> ReIDNet:
        """The network, in eval mode, on the CPU."""
        info = self.run.info
        net = ReIDNet(info.backbone, attention=info.attention)
        load_network(net, self.file)
        return net.eval()


def kept_networks(path: Path) -> list[KeptNetwork]:
    """Every round's network in RUN/rounds/ROUND.safetensors, in order; else the last one alone.

    None where the run left no network. Raises RunError when `path` is no run folder.
    """
    run = Run.open(path)
    files = sorted((path / ROUNDS).glob(f"*{SUFFIX}"), key=lambda file: (len(file.stem), file.stem))
    if not files:
        files = [file for file in [path / f"{LAST}{SUFFIX}"] if file.exists()]
    return [KeptNetwork(run, file.stem, file) for file in files]
