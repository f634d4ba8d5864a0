"""Crops of a site as each of several processes gets them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt.config import Recipe
from adapt.data.catalog.folders import read_site
from adapt.data.decoding.decode import DecodedCrops, Room
from adapt.data.decoding.run_crops import RunCrops
from adapt.runtime.distributed import World
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


def both_read(world: World, site: Path, run: Path, hidden: bool = False) -> Got:
    """Read a site for a run and keep it. hidden: what the first has open cannot be opened."""
    decoded = 0

    def decode(room: Room) -> DecodedCrops:
        nonlocal decoded
        decoded += 1
        return read_crops(listing, RECIPE, SIZE, room)

    listing = read_site(site)
    crops = RunCrops(run, _Misled(world) if hidden else world)
    data = crops.read("target.crops", listing, made_by(SIZE, RECIPE), decode)
    world.wait()
    run.mkdir(exist_ok=True)
    crops.keep()
    world.wait()
    return Got([s.key for s in data.crops.samples], np.asarray(data.images).tobytes(), decoded)


class _Misled(World):
    def __init__(self, world: World) -> None:
        super().__init__(world.rank, world.size, world._patient)

    def share(self, state):  # type: ignore[no-untyped-def]
        return super().share(state and ({}, {"where": "/nowhere/at/all"}))
