"""Crops that adaptation leaves out, so that the gate judges by crops that no model learned from.

Nothing is written down: the same share of the same folder names the same crops in every command.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adapt.errors import ConfigError, DataError
from adapt.types import UNTRACKED, CropSet
from models.wording import plural

_RANGE = 1 << 64


def held_back(keys: Sequence[str], tracks: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Choose crops by a hash of their names, whole tracks at a time.

        held where  first 8 bytes of sha256(name) / 2^64 < share

    The name of a crop is its key; that of a track the first key, in order, of its crops, since
    codes of tracks change when crops are added. A larger share holds back what a smaller one does,
    and more.

    Args:
        keys: of N crops.
        tracks: (N,) codes, `UNTRACKED` without one.
        share: in [0, 1).

    Returns:
        (N,) True for crops held back: about `share` of the tracks, and of the crops without one.

    Raises:
        ConfigError: the share is out of range. ValueError: the lengths differ.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"a share to hold back is in [0, 1), as 0.2 for a fifth, not {share}")
    if len(keys) != len(tracks):
        raise ValueError(f"{len(keys)} keys do not fit {len(tracks)} tracks")
    first: dict[int, str] = {}
    for key, track in zip(keys, tracks.tolist(), strict=True):
        if track != UNTRACKED:
            first[track] = min(key, first.get(track, key))
    return np.array(
        [
            _draw(first.get(track, key)) < share
            for key, track in zip(keys, tracks.tolist(), strict=True)
        ],
        bool,
    )


def without_held_back(crops: CropSet, share: float) -> CropSet:
    """The crops to learn from. Raises DataError when there are none."""
    left = _part(crops, share, wanted=False)
    return replace(left, held_back=len(crops) - len(left))


def only_held_back(crops: CropSet, share: float) -> CropSet:
    """The crops that `without_held_back` leaves out. Raises DataError when there are none."""
    return _part(crops, share, wanted=True)


def _part(crops: CropSet, share: float, *, wanted: bool) -> CropSet:
    held = held_back([s.key for s in crops.samples], crops.tracks, share)
    samples = tuple(s for s, h in zip(crops.samples, held.tolist(), strict=True) if h is wanted)
    if not samples:
        what = "nothing back" if wanted else "everything back"
        raise DataError(
            f"{crops.root}: a share of {share:g} holds {what} of {plural(len(crops), 'crop')}; "
            "add crops or choose another share"
        )
    return replace(crops, samples=samples)


def _draw(name: str) -> float:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8]) / _RANGE
