"""Decode and resize every crop once; training then works on uint8 arrays.

The caller chooses where the arrays are: in memory, or mapped from a file
(`adapt.data.decoding.mapped_file`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from adapt.data.catalog.image_files import unread_reason
from adapt.errors import NoImagesError
from adapt.types import CropSet, Dropped, Sample
from models.errors import ImageError
from models.image import Preprocessing
from models.wording import plural

CropAllocator = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Allocates an array of a given shape for decoded crops."""


def allocate_crops(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The simple `CropAllocator`."""
    return np.empty(shape, np.uint8)


@dataclass(frozen=True)
class DecodedCrops:
    """A `CropSet` whose every crop could be read, with its pixels.

    images: (N, H, W, 3) uint8 RGB, row i is `crops.samples[i]`; masks follow as further channels
    where pre-training wants some (`adapt.data.decoding.part_masks`).
    """

    crops: CropSet
    images: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.crops):
            raise ValueError(f"{len(self.images)} images for {len(self.crops)} crops")

    def __len__(self) -> int:
        return len(self.crops)


def decode_crops(
    listing: CropSet,
    preprocessing: Preprocessing,
    *,
    forget_names: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    allocate: CropAllocator = allocate_crops,
) -> DecodedCrops:
    """Read every crop of a listing; those that cannot be read are left out and reported.

    forget_names: order the crops by their content. Sorted file names would carry identities
        into the order of the crops, and so into what is drawn from it.
    progress: called with the number of crops done after each of them. allocate: allocates the
    array whose first rows the images become.
    Returns the readable crops with `dropped` extended by path and reason, and `fingerprint` set
    to the sha256 over key and content of each crop in order; of a manifest's crops also over
    camera, track and time, which no file name tells.
    Raises NoImagesError when nothing is left.
    """
    digest = hashlib.sha256()
    images = allocate((len(listing), preprocessing.height, preprocessing.width, 3))
    hashes: dict[int, bytes] = {}
    dropped = list(listing.dropped)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(partial(_read, preprocessing), listing.samples, images)
        for row, (sample, result) in enumerate(zip(listing.samples, results, strict=True)):
            if isinstance(result, Dropped):
                dropped.append(result)
            else:
                hashes[row] = result
                digest.update(_identity(listing, sample, result))
            progress(row + 1)
    if not hashes:
        raise NoImagesError(
            f"none of {plural(len(listing), 'image')} below {listing.root} can be read; "
            f"first: {dropped[-1].key}: {dropped[-1].reason}"
        )
    kept = list(hashes)
    if forget_names:
        kept.sort(key=lambda row: (hashes[row], listing.samples[row].camera))
    _reorder(images, kept + [row for row in range(len(listing)) if row not in hashes])
    crops = replace(
        listing,
        samples=tuple(listing.samples[row] for row in kept),
        dropped=tuple(dropped),
        fingerprint=digest.hexdigest(),
    )
    return DecodedCrops(crops, images[: len(kept)])


def fingerprint_of(
    listing: CropSet, preprocessing: Preprocessing, dropped: Sequence[Dropped]
) -> str | None:
    """The fingerprint that `decode_crops` would find, by reading alone; None if it may differ.

    dropped: crops that it left out; they are tried again. None if any of them can be read now, or
    if another crop cannot be read any more.
    """
    left_out = {drop.key for drop in dropped}
    kept = [sample for sample in listing.samples if sample.key not in left_out]
    digest = hashlib.sha256()
    shape = (preprocessing.height, preprocessing.width, 3)
    for sample in listing.samples:
        again = sample.key in left_out
        if again and isinstance(_read(preprocessing, sample, allocate_crops(shape)), bytes):
            return None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for sample, found in zip(kept, pool.map(_hash, kept), strict=True):
            if found is None:
                return None
            digest.update(_identity(listing, sample, found))
    return digest.hexdigest()


def keep_rows(data: DecodedCrops, rows: NDArray[np.intp]) -> DecodedCrops:
    """Some crops of a set, in its memory: `data` is used up, a second copy may not fit.

    rows: (M,) rising rows of the crops to keep.
    """
    for place, row in enumerate(rows):
        data.images[place] = data.images[row]
    samples = tuple(data.crops.samples[row] for row in rows)
    return DecodedCrops(replace(data.crops, samples=samples), data.images[: len(rows)])


def _identity(listing: CropSet, sample: Sample, content: bytes) -> bytes:
    """The part of a set's fingerprint for one crop. content: sha256 of its file."""
    named = os.fsencode(sample.key) + b"\0" + content
    if not listing.manifest:
        return named
    told = (listing.cameras[sample.camera], sample.track, sample.time)
    return named + repr(told).encode()


def _hash(sample: Sample) -> bytes | None:
    try:
        return hashlib.sha256(sample.path.read_bytes()).digest()
    except OSError:
        return None


def _reorder(images: NDArray[np.uint8], order: Sequence[int]) -> None:
    """images = images[order] in place, cycle by cycle: a second copy may not fit in memory."""
    done = [False] * len(order)
    for start in range(len(order)):
        if done[start]:
            continue
        row, first = start, images[start].copy()
        while not done[row]:
            done[row] = True
            images[row] = first if order[row] == start else images[order[row]]
            row = order[row]


def _read(
    preprocessing: Preprocessing, sample: Sample, place: NDArray[np.uint8]
) -> bytes | Dropped:
    """Read one crop into its place; gives the sha256 of the file."""
    try:
        content = sample.path.read_bytes()
        place[:] = preprocessing.load(content)
    except OSError as error:
        return Dropped(sample.key, unread_reason(sample.path, error))
    except ImageError as error:
        return Dropped(sample.key, str(error))
    return hashlib.sha256(content).digest()
