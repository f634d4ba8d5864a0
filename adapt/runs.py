"""The run folder: what a training run was, did and left behind.

RUN/run.json             everything that decides the run, and how it ended (`RunInfo`)
RUN/metrics.jsonl        one JSON object per round
RUN/model.safetensors    the network to keep, of the last finished round
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from adapt.checkpoint import load_network, save_network, write_atomically
from adapt.errors import RunError
from adapt.types import CropSet
from models.backbones.net import ReIDNet
from models.image import Preprocessing

log = logging.getLogger("resight")
_LIBRARIES = ("numpy", "safetensors", "scikit-learn", "scipy", "torch", "torchvision")
FORMAT = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataInfo(_Record):
    """One folder of crops as it was read.

    fingerprint: sha256 over key and content of every crop that was used.
    dropped: files left out, by key, with the reason.
    """

    root: str
    role: Literal["source", "target", "validation"]
    fingerprint: str
    crops: int
    cameras: tuple[str, ...]
    dropped: Mapping[str, str]

    @classmethod
    def of(cls, crops: CropSet, role: Literal["source", "target", "validation"]) -> DataInfo:
        """Describe a decoded set."""
        return cls(
            root=str(crops.root),
            role=role,
            fingerprint=crops.fingerprint,
            crops=len(crops),
            cameras=crops.cameras,
            dropped={drop.key: drop.reason for drop in crops.dropped},
        )


class RunInfo(_Record):
    """Contents of run.json.

    recipe: the whole resolved recipe. init: sha256 of each network it started from. data: what
    it learnt from, with what those networks had learnt from.
    state: `running` also means that the process died.
    """

    format: int = FORMAT
    kind: Literal["pretrain", "adapt"]
    method: str
    backbone: str
    preprocessing: Preprocessing
    recipe: Mapping[str, Any]
    recipe_name: str
    seed: int
    init: tuple[str, ...]
    data: tuple[DataInfo, ...]
    device: str
    versions: Mapping[str, str]
    started: datetime
    state: Literal["running", "finished", "failed"] = "running"
    error: str = ""
    rounds: int = 0
    seconds: float = 0.0


def library_versions() -> dict[str, str]:
    """Versions of what decides a run's result."""
    return {
        "python": platform.python_version(),
        "resight": version("resight"),
        **{name: version(name) for name in _LIBRARIES},
    }


class Run:
    """A run folder."""

    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path = path
        self.info = info

    @classmethod
    def create(cls, path: Path, info: RunInfo) -> Run:
        """Start a run folder; one that failed before its first round is taken over.

        Raises RunError when the folder cannot be made or holds something.
        """
        if path.exists() and not _is_replaceable(path):
            raise RunError(f"{path} exists and is not empty; choose another --out or remove it")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make {path}: {error.strerror}; choose another --out") from None
        run = cls(path, info)
        run._write_info()
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """Read a run folder. Raises RunError when it is none or of another format."""
        file = path / "run.json"
        try:
            content = file.read_text()
        except OSError as error:
            raise RunError(f"{path} is no run folder: {error.strerror} ({file})") from None
        try:
            info = RunInfo.model_validate_json(content)
        except ValidationError as error:
            raise RunError(
                f"{file} cannot be read by this version of resight: {error.errors()[0]['msg']}"
            ) from error
        if info.format != FORMAT:
            raise RunError(f"{file} has format {info.format}, this version reads {FORMAT}")
        return cls(path, info)

    def record(self, metrics: Mapping[str, Any], net: ReIDNet) -> None:
        """Keep a finished round: append its figures, replace the network."""
        save_network(net, self.path / "model.safetensors")
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(metrics) + "\n")
        self._update(rounds=self.info.rounds + 1)

    def finish(self, seconds: float, error: str = "") -> None:
        """Close the run; `error` is what stopped it."""
        self._update(seconds=seconds, state="failed" if error else "finished", error=error)

    def network(self) -> ReIDNet:
        """Build the kept network, in eval mode, on the CPU; warns if the run did not finish."""
        if self.info.state != "finished":
            log.warning(
                "%s did not finish: its network is of round %d", self.path, self.info.rounds
            )
        net = ReIDNet(self.info.backbone)
        load_network(net, self.path / "model.safetensors")
        return net.eval()

    def network_hash(self) -> str:
        """sha256 of the kept network's file. Raises RunError when there is none."""
        try:
            return hashlib.sha256((self.path / "model.safetensors").read_bytes()).hexdigest()
        except OSError as error:
            raise RunError(f"{self.path} holds no network: {error.strerror}") from None

    def metrics(self) -> list[dict[str, Any]]:
        """The rounds so far, oldest first."""
        file = self.path / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _update(self, **changes: object) -> None:
        self.info = self.info.model_copy(update=changes)
        self._write_info()

    def _write_info(self) -> None:
        write_atomically(self.path / "run.json", self.info.model_dump_json(indent=2).encode())


def _is_replaceable(path: Path) -> bool:
    if not path.is_dir():
        return False
    if [entry.name for entry in path.iterdir()] == ["run.json"]:
        info = Run.open(path).info
        return info.state == "failed" and info.rounds == 0
    return not any(path.iterdir())


def pick_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device; `auto` prefers a GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RunError(f"--device {name}: {error}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError(f"--device {name}: torch sees no GPU here; use --device cpu")
    return device
