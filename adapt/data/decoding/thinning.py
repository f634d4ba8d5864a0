"""Leave out near-duplicates within a track, and crops beyond its maximum.

A tracker gives a crop for every frame. Neighbors in time are nearly one picture: they fill each
other's nearest neighbors, so that clusters become single tracks, and cost as much as new views.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from adapt.data.decoding.decode import DecodedCrops, keep_rows
from adapt.types import UNTRACKED
from models.wording import plural

log = logging.getLogger("resight")

THUMBNAIL = (16, 8)
"""Height and width of the pictures that are compared: small enough to take noise and compression
out, large enough that arms and legs show."""


@dataclass(frozen=True)
class Thinned:
    """What thinning keeps.

    rows: (M,) rising rows that stay. alike: how many were left out as near-duplicates of a kept
    one. surplus: how many of the rest, because their track has enough.
    """

    rows: NDArray[np.intp]
    alike: int
    surplus: int


def thin_tracks(
    images: NDArray[np.uint8],
    tracks: NDArray[np.int64],
    times: NDArray[np.float64],
    *,
    difference: float,
    per_track: int,
) -> Thinned:
    """Choose the crops of each track that are used.

        d(i, j) = mean over pixels of |t_i - t_j|, t the gray thumbnail of a crop

    In the order of time a crop of a track stays if d to every crop of the track that stayed
    before is at least `difference`. Of more than `per_track` that stay, so many are taken, evenly
    spread over their order. Tracks do not know each other; crops without a track all stay.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        tracks: (N,) codes, `UNTRACKED` for none; only whether two are equal matters.
        times: (N,) seconds; nan counts as last. Equal times follow the order of the rows.
        difference: in gray levels, [0, 255]; 0 leaves out no near-duplicates.
        per_track: most crops of a track, >= 0; 0 takes all.
    """
    when = np.where(np.isnan(times), np.inf, times)
    order = np.lexsort((when, tracks))
    order = order[tracks[order] != UNTRACKED]
    starts = np.flatnonzero(np.diff(tracks[order])) + 1
    stay = tracks == UNTRACKED
    alike = surplus = 0
    for rows in np.split(order, starts):
        kept = _unlike(images, rows, difference)
        alike += len(rows) - len(kept)
        if per_track and len(kept) > per_track:
            surplus += len(kept) - per_track
            kept = kept[np.arange(per_track) * (len(kept) - 1) // max(per_track - 1, 1)]
        stay[kept] = True
    return Thinned(np.flatnonzero(stay), alike, surplus)


def thin_crops(data: DecodedCrops, *, difference: float, per_track: int) -> DecodedCrops:
    """`thin_tracks` on a set, which is used up; the count is logged and goes to `thinned`."""
    crops = data.crops
    found = thin_tracks(
        data.images, crops.tracks, crops.times, difference=difference, per_track=per_track
    )
    left_out = found.alike + found.surplus
    if not left_out:
        return data
    log.info(
        "thinned: near-duplicates within their track: %d; beyond %s of a track: %d; used: %d of %d",
        *(found.alike, plural(per_track, "crop"), found.surplus, len(found.rows), len(data)),
    )
    kept = keep_rows(data, found.rows)
    return replace(kept, crops=replace(kept.crops, thinned=left_out))


def _unlike(
    images: NDArray[np.uint8], rows: NDArray[np.intp], difference: float
) -> NDArray[np.intp]:
    """Rows of one track, in the order of time, without near-duplicates of kept ones."""
    if not difference or len(rows) < 2:
        return rows
    kept: list[np.intp] = []
    shown = np.empty((len(rows), THUMBNAIL[0] * THUMBNAIL[1]), np.float32)
    for row in rows:
        thumbnail = _thumbnail(images[row])
        if (np.abs(shown[: len(kept)] - thumbnail).mean(axis=1) >= difference).all():
            shown[len(kept)] = thumbnail
            kept.append(row)
    return np.array(kept, np.intp)


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(gray, THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).ravel()
