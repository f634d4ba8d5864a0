"""Crops of a site as each of several processes gets them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt.config import Recipe
from adapt.data.catalog.folders import read_site
from adapt.data.decoding.decode import CropAllocator, DecodedCrops
from adapt.data.decoding.run_crops import RunCrops
from adapt.runtime.distributed import ProcessGroup
from adapt.workflows.session import made_by, read_crops
from models.image import Preprocessing

SIZE = Preprocessing(height=32, width=16)
RECIPE = Recipe(method="mmt")


@dataclass(frozen=True)
class Got:
    """keys: in order. decoded: how often this process decoded the set."""

    keys: list[str]
    pixels: bytes
    decoded: int


def both_read(group: ProcessGroup, site: Path, run: Path, hidden: bool = False) -> Got:
    """Read a site for a run and keep it. hidden: what the first has open cannot be opened."""
    decoded = 0

    def decode(allocate: CropAllocator) -> DecodedCrops:
        nonlocal decoded
        decoded += 1
        return read_crops(listing, RECIPE, SIZE, allocate)

    listing = read_site(site)
    crops = RunCrops(run, _Misled(group) if hidden else group)
    data = crops.read("target.crops", listing, made_by(SIZE, RECIPE), decode)
    group.barrier()
    run.mkdir(exist_ok=True)
    crops.keep()
    group.barrier()
    return Got([s.key for s in data.crops.samples], np.asarray(data.images).tobytes(), decoded)


class _Misled(ProcessGroup):
    def __init__(self, group: ProcessGroup) -> None:
        super().__init__(group.rank, group.size, group._patient)

    def broadcast(self, state):  # type: ignore[no-untyped-def]
        return super().broadcast(state and ({}, {"where": "/nowhere/at/all"}))
