"""Made-up crops as files: smooth random pictures with a pattern for each person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adapt.data.decoding.decode import DecodedCrops, decode_crops
from adapt.types import CropSet, Sample
from models.image import Preprocessing


@dataclass(frozen=True)
class MadeUpSite:
    """Crops in a folder, and to which of `clusters` clusters each is said to belong."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]

    def decoded(self, size: Preprocessing) -> DecodedCrops:
        """As a run reads them."""
        samples = tuple(Sample(f, f.name, camera=n % 2) for n, f in enumerate(self.files))
        return decode_crops(CropSet(self.files[0].parent, samples, ("c1", "c2")), size)


def write_site(folder: Path, *, crops: int, clusters: int) -> MadeUpSite:
    """Write JPEG files of 256x128, crop i of cluster i modulo `clusters`."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    people = rng.integers(0, 200, (clusters, 16, 8, 3))
    files = []
    for number in range(crops):
        noise = rng.integers(0, 56, (16, 8, 3))
        small = (people[number % clusters] + noise).astype(np.uint8)
        file = folder / f"{number % clusters:04d}_c{number % 2 + 1}s1_{number:06d}_00.jpg"
        large = Image.fromarray(small).resize((128, 256), Image.Resampling.BICUBIC)
        large.save(file, "JPEG", quality=90)
        files.append(file)
    return MadeUpSite(tuple(files), np.arange(crops) % clusters)
