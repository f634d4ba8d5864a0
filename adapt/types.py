"""Records that the packages of `adapt` exchange: small, frozen, checked by their constructors.

Shapes: N images, D embedding dimensions, B images of a batch, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError, NonFiniteFeaturesError

if TYPE_CHECKING:
    import torch

OUTLIER = -1
"""Pseudo label of an image that belongs to no cluster."""

UNLABELLED = -1
"""`Sample.person` of an image whose identity is not known (every image of a target site)."""

UNTRACKED = -1
"""`Sample.track` of a crop that no tracker followed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop on disk.

    key: unique name of the crop (its path below the data set's root, POSIX separators); two
        cameras may hold files of the same name, keys never collide.
    camera: code >= 0 of the camera that saw it; `CropSet.cameras[camera]` is its name.
    person: identity >= 0, or `UNLABELLED`.
    track: code >= 0 of the track within its set, or `UNTRACKED`; a track is of one camera.
    time: seconds since 1970-01-01 UTC, or None where unknown.
    """

    path: Path
    key: str
    camera: int
    person: int = UNLABELLED
    track: int = UNTRACKED
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file that was left out of a `CropSet`, and why.

    image: False when its name already says that it is not an image.
    """

    key: str
    reason: str
    image: bool = True


@dataclass(frozen=True)
class CropSet:
    """The readable crops of a folder, in a fixed order, and what was left out.

    cameras: camera names; `Sample.camera` indexes it. One entry when cameras are unknown.
    fingerprint: sha256 over (key, content) of all crops that were read, and over (camera, track,
        time) of those of a manifest: it identifies the data.
    manifest: name of the file that lists the crops; empty where a folder was searched.
    held_back: crops left out so that models can be judged by them.
    thinned: crops left out because their track has others like them.
    unlisted: images beside the listed ones that the list does not name.

    Raises DataError when two crops share one key, or one track two cameras.
    """

    root: Path
    samples: tuple[Sample, ...]
    cameras: tuple[str, ...]
    dropped: tuple[Dropped, ...] = ()
    fingerprint: str = ""
    manifest: str = ""
    held_back: int = 0
    thinned: int = 0
    unlisted: tuple[Dropped, ...] = ()

    def __post_init__(self) -> None:
        keys = {sample.key for sample in self.samples}
        if len(keys) != len(self.samples):
            raise DataError(f"{self.root}: two crops share one key")
        seen = {(s.track, s.camera) for s in self.samples if s.track != UNTRACKED}
        if len(seen) != len({track for track, _ in seen}):
            raise DataError(f"{self.root}: a track is of two cameras; name tracks by their camera")

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def persons(self) -> NDArray[np.int64]:
        """(N,) identities, `UNLABELLED` where unknown."""
        return np.array([s.person for s in self.samples], np.int64)

    @property
    def camera_codes(self) -> NDArray[np.int64]:
        """(N,) camera codes."""
        return np.array([s.camera for s in self.samples], np.int64)

    @property
    def tracks(self) -> NDArray[np.int64]:
        """(N,) track codes, `UNTRACKED` where there is none."""
        return np.array([s.track for s in self.samples], np.int64)

    @property
    def times(self) -> NDArray[np.float64]:
        """(N,) seconds since 1970-01-01 UTC, nan where unknown."""
        return np.array([np.nan if s.time is None else s.time for s in self.samples], np.float64)


FloatAllocator = Callable[[tuple[int, ...]], NDArray[np.float32]]
"""Allocates an array of zeros of a given shape, for embeddings."""

_BLOCK = 8192


def allocate_floats(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The simple `FloatAllocator`."""
    return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class FeatureTable:
    """Embeddings of one `CropSet` under one or more networks.

    features: one (N, D) float32 matrix of L2-normalized embeddings per network; may be none.
    cameras: (N,) int64 camera codes. allocate: allocates their mean.
    """

    features: tuple[NDArray[np.float32], ...]
    cameras: NDArray[np.int64]
    allocate: FloatAllocator = allocate_floats

    def __post_init__(self) -> None:
        for matrix in self.features:
            if matrix.ndim != 2 or len(matrix) != len(self.cameras):
                raise ValueError(f"features {matrix.shape} do not fit {len(self.cameras)} cameras")
            bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
            if len(bad):
                raise NonFiniteFeaturesError(int(bad[0]), len(bad))

    def __len__(self) -> int:
        return len(self.cameras)

    def mean(self) -> NDArray[np.float32]:
        """(N, D) mean over the networks; shorter than 1 where they differ."""
        mean = self.allocate(self.features[0].shape)
        for start in range(0, len(mean), _BLOCK):
            first, *others = (each[start : start + _BLOCK] for each in self.features)
            mean[start : start + _BLOCK] = sum(others, start=first) / np.float32(len(self.features))
        return mean


@dataclass(frozen=True)
class PseudoLabels:
    """A partition of N images into clusters 0..K-1 and outliers.

    labels: (N,) int64; contiguous ids 0..K-1, `OUTLIER` for images in no cluster.
    rule: how they were made, for people ("kmeans K=29", "dbscan eps=0.412 ...").
    warnings: of how they were made, for people.
    radius: of DBSCAN, in re-ranked distance; None where there is none.
    known: they are the true identities that came with the crops; nothing was clustered.
    """

    labels: NDArray[np.int64]
    rule: str
    warnings: tuple[str, ...] = ()
    radius: float | None = None
    known: bool = False

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.dtype != np.int64:
            raise ValueError("labels must be a one-dimensional int64 array")
        ids = np.unique(self.labels)
        ids = ids[ids != OUTLIER]
        if not np.array_equal(ids, np.arange(len(ids))):
            raise ValueError("cluster ids must be 0..K-1 without holes")

    @property
    def clusters(self) -> int:
        """K, the number of clusters."""
        return int(self.labels.max(initial=OUTLIER)) + 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(K,) images per cluster."""
        return np.bincount(self.labels[self.labels != OUTLIER], minlength=self.clusters)

    @property
    def outlier_share(self) -> float:
        """Fraction of images in no cluster."""
        return float((self.labels == OUTLIER).mean()) if len(self.labels) else 0.0


@dataclass(frozen=True)
class RoundOf:
    """Which round this is: `number`, counted from 0, of `total`."""

    number: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.total:
            raise ValueError(f"round {self.number} of {self.total}")


@dataclass(frozen=True)
class Batch:
    """Crops with their labels, in one or more independently augmented views.

    views: each (B, 3, H, W) float32, normalized. label: (B,) int64, `OUTLIER` only where a method
    samples images instead of identities. index: (B,) int64 row of the `CropSet`.
    """

    views: tuple[torch.Tensor, ...]
    label: torch.Tensor
    index: torch.Tensor

    def __post_init__(self) -> None:
        size = len(self.label)
        if not self.views or any(len(v) != size for v in self.views) or len(self.index) != size:
            raise ValueError("views, label and index must have the same length")


@dataclass(frozen=True, slots=True)
class Term:
    """A loss term: a scalar tensor and its factor in the sum that is differentiated."""

    value: torch.Tensor
    weight: float


@dataclass(frozen=True)
class Losses:
    """The result of one training step.

    terms: by name, summed in this order. stats: numbers that are only logged; scalar tensors where
    they are on a GPU, because reading each one would wait for the GPU.
    """

    terms: Mapping[str, Term]
    stats: Mapping[str, float | torch.Tensor] = field(default_factory=dict)

    def total(self) -> torch.Tensor:
        """Weighted sum of the terms, a scalar."""
        first, *rest = (term.weight * term.value for term in self.terms.values())
        return sum(rest, start=first)
