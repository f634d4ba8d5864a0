"""Decode a listing with progress, and say what was left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from adapt.data.catalog.image_files import left_out_lines
from adapt.data.decoding.decode import CropAllocator, DecodedCrops, allocate_crops, decode_crops
from adapt.runtime.progress import progress
from adapt.types import CropSet, Dropped
from models.image import Preprocessing
from models.wording import plural

log = logging.getLogger("resight")


def load_crops(
    listing: CropSet,
    preprocessing: Preprocessing,
    *,
    forget_names: bool = False,
    allocate: CropAllocator = allocate_crops,
) -> DecodedCrops:
    """`decode_crops` for people: a progress bar, cameras and counts, unreadable files."""
    with progress("decode", len(listing)) as tick:
        data = decode_crops(
            listing, preprocessing, forget_names=forget_names, progress=tick, allocate=allocate
        )
    counts = [0] * len(data.crops.cameras)
    for code in data.crops.camera_codes:
        counts[code] += 1
    seen = ", ".join(f"{n} {c}" for n, c in zip(data.crops.cameras[:12], counts, strict=False))
    more = ", ..." if len(counts) > 12 else ""
    kept = plural(len(data), "crop")
    log.info("%s: %s (by camera: %s%s)", listing.root, kept, seen, more)
    unreadable = data.crops.dropped[len(listing.dropped) :]
    _say(logging.WARNING, unreadable)
    if unreadable:
        log.warning("%d of %s cannot be read", len(unreadable), plural(len(listing), "crop"))
    _say(logging.WARNING, [drop for drop in listing.dropped if drop.image])
    _say(logging.INFO, [drop for drop in listing.dropped if not drop.image])
    _say(logging.INFO, listing.unlisted)
    return data


def _say(level: int, dropped: Sequence[Dropped]) -> None:
    for line in left_out_lines((drop.key, drop.reason) for drop in dropped):
        log.log(level, "%s", line)
