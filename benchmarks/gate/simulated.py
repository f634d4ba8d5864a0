"""What a faultless tracker would tell of labelled crops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.proxies.sightings import Sightings
from adapt.types import UNLABELLED, UNTRACKED, CropSet

AT_ONCE = 3
"""People that a camera sees at a time."""

SECONDS = 1.0
"""Between two crops of a track."""

PAUSE = 3600.0
"""Between the people of one time and those of the next."""


def simulated_tracks(crops: CropSet, *, seed: int = 0) -> Sightings:
    """Put a person's crops in one camera on one track, and several people in view at once.

    In each camera people are drawn in threes (`AT_ONCE`) that appear together, one crop a second
    in the order of the keys. Labels are used for nothing else.

    Args:
        crops: labelled, junk (-1) left out of all tracks.
        seed: of the draw.
    """
    order = np.argsort([sample.key for sample in crops.samples], kind="stable")
    person, camera = crops.persons, crops.camera_codes
    pairs, track = np.unique(np.stack([camera, person]), axis=1, return_inverse=True)
    track = track.ravel().astype(np.int64)
    rng = np.random.default_rng(seed)
    start = np.zeros(pairs.shape[1])
    for code in np.unique(pairs[0]):
        seen = np.flatnonzero((pairs[0] == code) & (pairs[1] != UNLABELLED))
        start[rng.permutation(seen)] = np.arange(len(seen)) // AT_ONCE * PAUSE
    frame = np.empty(len(crops), np.int64)
    for rows in np.split(order[np.argsort(track[order], kind="stable")], _cuts(track)):
        frame[rows] = np.arange(len(rows))
    known = person != UNLABELLED
    return Sightings(
        camera,
        np.where(known, track, UNTRACKED),
        np.where(known, start[track] + SECONDS * frame, np.nan),
    )


def _cuts(track: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a list that is ordered by track has to be split."""
    return np.cumsum(np.bincount(track))[:-1]
