"""What a run was: the records of run.json."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from adapt.data.catalog.splits import Split
from adapt.errors import LostProcessError, RunError, StoppedError, WriteError
from adapt.types import CropSet
from models.backbones.weights import weights_file
from models.files import sha256_file
from models.image import Preprocessing

FORMAT = 1
_LIBRARIES = ("numpy", "safetensors", "scikit-learn", "scipy", "torch", "torchvision")

TRANSIENT_REASONS = (StoppedError.reason, WriteError.reason, LostProcessError.reason, "INTERRUPTED")
"""Reasons that may be gone by themselves."""

RESUMABLE_REASONS = (*TRANSIENT_REASONS, RunError.reason)
"""Reasons after which a run can go on, once they are gone or mended; so it can when its process
died and it says `running`."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataInfo(_Record):
    """One folder of crops as it was read.

    fingerprint: `CropSet.fingerprint`, of every crop that was read. crops: used, after thinning.
    manifest: the file that listed them, by its name in root; empty for a folder that was searched.
    thinned: crops left out because their track has others like them.
    unreadable: crops left out because they cannot be read. not_images: other files, by their
    names no images, as Thumbs.db. dropped: both, by key, with the reason.
    """

    root: str
    role: Literal["source", "target", "validation"]
    fingerprint: str
    crops: int
    cameras: tuple[str, ...]
    manifest: str = ""
    thinned: int = 0
    unreadable: int = 0
    not_images: int = 0
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
            manifest=crops.manifest,
            thinned=crops.thinned,
            unreadable=sum(drop.image for drop in crops.dropped),
            not_images=sum(not drop.image for drop in crops.dropped),
            dropped={drop.key: drop.reason for drop in crops.dropped},
        )


class WeightsInfo(_Record):
    """What pre-training started from: a state dict, a run, or a human-parsing model.

    source: path as given, or `torchvision`. sha256: of the file, torchvision's as downloaded, a
    run's network.
    """

    source: str
    sha256: str

    @classmethod
    def of(cls, backbone: str, source: str) -> WeightsInfo:
        """Describe weights that have been loaded."""
        return cls(source=source, sha256=sha256_file(weights_file(backbone, source)))


class Inputs(_Record):
    """Folders that a run reads, absolute, to be read again when it goes on.

    target: the site's; empty in pre-training. sources, splits: labelled crops. validation: the
    labelled set that is scored after each round; may be empty.
    """

    target: str = ""
    sources: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ()
    validation: str = ""


class RunInfo(_Record):
    """Contents of run.json.

    attention: the network weights its map by a `DomainAttention`.
    recipe: the whole resolved recipe. recipe_name: its name and what --set changed. weights: what
    pre-training started from; null is random numbers. parsing: the model that found body parts.
    init: sha256 of each network that adaptation started from. camera_pattern: as given. data: what
    it learned from, with what those networks had learned from, and what it was validated on.
    hold_back: share of the site's crops that it was kept from.
    inputs: where all that is read from; null in runs that were written before it was kept.
    keep_rounds: whether the network of every round is kept.
    processes: how many took part, at the last start.
    threads: of torch in each, at the first; null in runs that were written before it was kept.
    state: `running` also means that the process died; `stopped`, that it was asked to. reason,
    error: what a failed run stopped on, as `AdaptError.reason` or `INTERRUPTED`, and for people.
    """

    format: int = FORMAT
    kind: Literal["pretrain", "adapt"]
    method: str
    backbone: str
    attention: bool = False
    preprocessing: Preprocessing
    recipe: Mapping[str, Any]
    recipe_name: str
    seed: int
    weights: WeightsInfo | None = None
    parsing: WeightsInfo | None = None
    camera_pattern: str | None = None
    hold_back: float = 0.0
    init: tuple[str, ...]
    data: tuple[DataInfo, ...]
    inputs: Inputs | None = None
    keep_rounds: bool = False
    device: str
    processes: int = 1
    threads: int | None = None
    versions: Mapping[str, str]
    started: datetime
    state: Literal["running", "stopped", "finished", "failed"] = "running"
    reason: str = ""
    error: str = ""
    rounds: int = 0
    seconds: float = 0.0

    def recipe_hash(self) -> str:
        """sha256 of the recipe as run.json holds it, whatever the order of its fields."""
        written = json.loads(self.model_dump_json(include={"recipe"}))["recipe"]
        return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of what decides a run's result."""
    return {
        "python": platform.python_version(),
        "resight": version("resight"),
        **{name: version(name) for name in _LIBRARIES},
    }
