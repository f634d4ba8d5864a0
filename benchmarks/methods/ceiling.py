"""Part `ceiling`: how much of what labels would give, on people left out of adaptation."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from adapt.data.catalog.folders import read_market
from adapt.data.catalog.splits import SPLIT_FOLDERS
from adapt.evaluation.scoring import LabelledCrops
from adapt.types import CropSet
from benchmarks.methods.arms import ARMS, SUPERVISED, chosen
from benchmarks.methods.compare import compare
from benchmarks.methods.real import SIZE, real_site
from benchmarks.methods.runs import BenchmarkSite
from benchmarks.methods.tables import print_closed

HALF_BATCHES = ("batch.identities=8",)
"""Half the people, so batches of half as many: as many passes over the crops as on all of them."""


def ceiling(options: argparse.Namespace) -> None:
    """Adapt on half of PKU-Reid's people, with and without labels, and score on the others."""
    options.set = [*HALF_BATCHES, *options.set]

    def site_of(split: int) -> BenchmarkSite:
        learned, left_out = halves(options.data / "pku_a", options.out / f"split-{split}", split)
        return real_site(options, split, learned, LabelledCrops.read(left_out, SIZE))

    arms = [SUPERVISED, *chosen(ARMS, options.methods)]
    compare(options.out / "ceiling.json", options.splits, site_of, arms, more=print_closed)


def halves(root: Path, out: Path, split: int) -> tuple[Path, Path]:
    """Copies of a folder's training crops, half of the people in each: A and B.

    Made from the split's number alone; kept and checked when they are there.
    """
    crops = read_market(root, ("train",))
    people = np.random.default_rng(split).permutation(np.unique(crops.persons))
    parts = out / "a", out / "b"
    for part, own in zip(parts, np.array_split(people, 2), strict=True):
        _copy(crops, set(own.tolist()), part)
    return parts


def _copy(crops: CropSet, people: set[int], out: Path) -> None:
    folder = out / SPLIT_FOLDERS["train"]
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {s.path.name: s.path for s in crops.samples if s.person in people}
    for name, path in wanted.items():
        if not (folder / name).exists():
            shutil.copyfile(path, folder / name)
    if odd := {path.name for path in folder.iterdir()} - set(wanted):
        raise SystemExit(f"{folder} holds other people's crops, as {min(odd)}: remove it")
