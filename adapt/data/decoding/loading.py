"""Decode a listing with progress, and say what was left out."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from adapt.data.decoding.decode import CropAllocator, DecodedCrops, allocate_crops, decode_crops
from adapt.runtime.progress import progress
from adapt.types import CropSet, Dropped
from models.image import Preprocessing
from models.wording import plural

log = logging.getLogger("resight")
_MAX_NAMED_FILES = 10


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
    for drop in unreadable[:_MAX_NAMED_FILES]:
        log.warning("left out %s: %s", drop.key, drop.reason)
    if len(unreadable) > _MAX_NAMED_FILES:
        log.warning("... and %d more", len(unreadable) - _MAX_NAMED_FILES)
    if unreadable:
        log.warning("%d of %s cannot be read", len(unreadable), plural(len(listing), "crop"))
    for image, reason, keys in _grouped(listing.dropped):
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        log.log(
            logging.WARNING if image else logging.INFO, "left out %s%s: %s", keys[0], more, reason
        )
    return data


def _grouped(dropped: Sequence[Dropped]) -> list[tuple[bool, str, list[str]]]:
    """(whether crops may be missing, reason, keys) of what was left out by name."""
    keys: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for drop in dropped:
        keys[drop.image, drop.reason].append(drop.key)
    return [(image, reason, found) for (image, reason), found in keys.items()]
