"""Decode and resize every crop once; training then works on uint8 arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adapt.errors import NoImagesError
from adapt.types import CropSet, Dropped, Sample
from models.errors import ImageError
from models.image import Preprocessing


@dataclass(frozen=True)
class DecodedCrops:
    """A `CropSet` whose every crop could be read, with its pixels.

    images: (N, H, W, 3) uint8 RGB, row i is `crops.samples[i]`.
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
) -> DecodedCrops:
    """Read every crop of a listing; what cannot be read is left out and reported.

    forget_names: order the crops by their content. Sorted file names would carry identities
        into the order of the crops, and so into what is drawn from it.
    progress: called with the number of crops done after each of them.
    Returns the readable crops with `dropped` extended by path and reason, and `fingerprint` set
    to the sha256 over key and content of each crop in order.
    Raises NoImagesError when nothing is left.
    """
    digest = hashlib.sha256()
    kept: list[tuple[Sample, bytes, NDArray[np.uint8]]] = []
    dropped = list(listing.dropped)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda sample: _read(sample, preprocessing), listing.samples)
        for done, (sample, result) in enumerate(zip(listing.samples, results, strict=True), 1):
            if isinstance(result, Dropped):
                dropped.append(result)
            else:
                image, content_hash = result
                kept.append((sample, content_hash, image))
                digest.update(os.fsencode(sample.key) + b"\0" + content_hash)
            progress(done)
    if not kept:
        raise NoImagesError(
            f"none of the {len(listing)} images below {listing.root} can be read; "
            f"first: {dropped[-1].key}: {dropped[-1].reason}"
        )
    if forget_names:
        kept.sort(key=lambda entry: (entry[1], entry[0].camera))
    samples = tuple(sample for sample, _, _ in kept)
    crops = replace(
        listing, samples=samples, dropped=tuple(dropped), fingerprint=digest.hexdigest()
    )
    return DecodedCrops(crops, np.stack([image for _, _, image in kept]))


def _read(
    sample: Sample, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], bytes] | Dropped:
    try:
        content = sample.path.read_bytes()
        return preprocessing.load(content), hashlib.sha256(content).digest()
    except (OSError, ImageError) as error:
        return Dropped(sample.key, str(error))
