"""What is known of a site's crops besides their pictures, and a figure measured on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError
from adapt.types import UNTRACKED, CropSet


@dataclass(frozen=True)
class Sightings:
    """Camera, track and time of N crops.

    cameras: (N,) int64 codes. tracks: (N,) int64 codes, `UNTRACKED` without one; a track is of one
    camera. times: (N,) float64 seconds, nan where unknown.
    """

    cameras: NDArray[np.int64]
    tracks: NDArray[np.int64]
    times: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not self.cameras.shape == self.tracks.shape == self.times.shape == (len(self),):
            raise ValueError("cameras, tracks and times must be of the same crops, (N,) each")
        pairs = np.unique(
            np.stack([self.tracks, self.cameras])[:, self.tracks != UNTRACKED], axis=1
        )
        codes, cameras = np.unique(pairs[0], return_counts=True)
        if (cameras > 1).any():
            raise DataError(
                f"tracks in several cameras: {int((cameras > 1).sum())} (first: track "
                f"{codes[cameras > 1][0]}); give the tracks of each camera names of their own"
            )

    def __len__(self) -> int:
        return len(self.cameras)

    @classmethod
    def of(cls, crops: CropSet) -> Sightings:
        """Of the crops of a set, in its order."""
        return cls(crops.camera_codes, crops.tracks, crops.times)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """(N,) codes 0..G-1: the track, or a code of its own for a crop without one.

        Crops of one group show one person in nearly one picture: they add nothing to each other,
        and rise and fall together.
        """
        own = np.arange(len(self)) + self.tracks.max(initial=UNTRACKED) + 1
        codes = np.where(self.tracks == UNTRACKED, own, self.tracks)
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)

    @property
    def group_count(self) -> int:
        """G."""
        return int(self.groups.max(initial=-1)) + 1

    @property
    def camera_count(self) -> int:
        """Cameras that have a crop."""
        return len(np.unique(self.cameras))


@dataclass(frozen=True)
class ProxyValue:
    """A figure of one model on a site.

    value: the figure. part: (M,) float64 whose mean it is, one for each of `row`, so that two
    models' parts can be compared pair by pair; row: (M,) crops they are of. Which crops these are
    never depends on the model. Both are None for a figure that is not a mean.
    measured: crops that the figure is of; the others of the site are left out of it. 0 where an
    earlier file does not tell.
    """

    value: float
    part: NDArray[np.float64] | None = None
    row: NDArray[np.int64] | None = None
    measured: int = 0

    @classmethod
    def mean_of(cls, part: NDArray[np.float64], row: NDArray[np.int64]) -> ProxyValue:
        """The mean of parts (M,), M >= 1, of some crops (M,)."""
        if part.shape != row.shape or not len(part):
            raise ValueError(f"parts {part.shape} and rows {row.shape} must be (M,), M >= 1")
        return cls(float(part.mean()), part, row, len(row))
