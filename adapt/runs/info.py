"""What a run was: the records of run.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Literal

from pydantic import BaseModel, ConfigDict

from adapt.errors import LostProcessError, RunError, StoppedError, WriteError
from adapt.runs.spec import RunKind, RunSpec
from adapt.types import CropSet
from models.image import Preprocessing

FORMAT = 2
_RUN_LIBRARIES = ("numpy", "safetensors", "scikit-learn", "scipy", "torch", "torchvision")

TRANSIENT_REASONS = (StoppedError.reason, WriteError.reason, LostProcessError.reason, "INTERRUPTED")
"""Reasons of transient conditions, e.g. a full disk."""

RESUMABLE_REASONS = (*TRANSIENT_REASONS, RunError.reason)
"""Reasons after which a run can be resumed, once the condition has passed or is mended. So can a
run whose process crashed, whose state is still `running`."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataInfo(_Record):
    """One folder of crops as it was read.

    fingerprint: `CropSet.fingerprint`, of every crop that was read. crops: used, after thinning.
    manifest: the file that listed them, by its name in root; empty for a folder that was searched.
    thinned: crops left out because their track has others like them.
    unreadable: crops left out because they cannot be read. not_images: other files, by their
    names no images, as Thumbs.db. dropped: both, by key, with the reason.
    unlisted: images beside the listed ones that the list does not name; there may be many, so they
    are counted alone.
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
    unlisted: int = 0
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
            unlisted=len(crops.unlisted),
            dropped={drop.key: drop.reason for drop in crops.dropped},
        )


class Origin(_Record):
    """sha256 of the files that a run's networks came from; empty where there is none.

    inits: of the network of each of `RunSpec.inits`. weights: of `RunSpec.weights`, torchvision's
    as downloaded, a run's network. parser: of the model that found body parts.
    """

    inits: tuple[str, ...] = ()
    weights: str = ""
    parser: str = ""


class RunInfo(_Record):
    """Contents of run.json.

    spec: what was asked for, with absolute paths. origin: what the networks came from.
    attention: the network weights its map by a `DomainAttention`.
    data: what the run learned from, with what its `inits` had learned from, and what it was
    validated on.
    device, processes, threads: where it was computed: processes at the last start, threads of
    torch in each at the first.
    state: `running` also where the process crashed (`Run.status` tells them apart); `stopped`
    where it was asked to stop. reason, error: what a failed run stopped on, as `AdaptError.reason`
    or `INTERRUPTED`, and for people.
    """

    format: int = FORMAT
    spec: RunSpec
    origin: Origin = Origin()
    attention: bool = False
    data: tuple[DataInfo, ...]
    device: str
    processes: int = 1
    threads: int
    versions: Mapping[str, str]
    started: datetime
    state: Literal["running", "stopped", "finished", "failed"] = "running"
    reason: str = ""
    error: str = ""
    rounds: int = 0
    seconds: float = 0.0

    def model_post_init(self, context: object) -> None:
        """Check that the network of the run is known."""
        if self.spec.backbone is None or self.spec.preprocessing is None:
            raise ValueError("spec.backbone and spec.preprocessing are missing")

    @property
    def kind(self) -> RunKind:
        """Of the run."""
        return self.spec.kind

    @property
    def method(self) -> str:
        """Name of the method, `source` of pre-training, `import` where nothing was trained."""
        return "import" if self.kind == "import" else self.spec.recipe.method

    @property
    def planned_rounds(self) -> int:
        """Rounds of the run, once it is finished."""
        return 0 if self.kind == "import" else self.spec.recipe.schedule.rounds

    @property
    def backbone(self) -> str:
        """Of the network."""
        return self.spec.known_backbone

    @property
    def preprocessing(self) -> Preprocessing:
        """What the network takes."""
        return self.spec.known_preprocessing

    @property
    def is_over(self) -> bool:
        """Whether the run finished, or failed for a reason that does not pass."""
        failed = self.state == "failed" and self.reason not in RESUMABLE_REASONS
        return self.state == "finished" or failed


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a run computes with, `RunInfo.versions`."""
    return {
        "python": platform.python_version(),
        "resight": version("resight"),
        **{name: version(name) for name in _RUN_LIBRARIES},
    }
