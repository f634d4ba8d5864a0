"""Part `spoil`: runs that are meant to fail, so that the gate has something to refuse.

All learn hard labels alone (`PLAIN` of the methods' tables), and each has one fault.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from adapt.training import Machine, adapt
from benchmarks.methods.arms import PLAIN, Arm
from benchmarks.methods.runs import COLLAPSE, CPU

log = logging.getLogger("resight")

FEW_STEPS = ("schedule.rounds=4", "schedule.iterations=15")

FAULTS: dict[str, tuple[str, ...]] = {
    # Thirty times the recipe's learning rate.
    "fast": (*FEW_STEPS, "optimizer.lr=0.0105"),
    # Cameras are told apart, not people: nothing is done against their bias.
    "cameras": (
        *FEW_STEPS,
        "clustering.camera_centering=false",
        "clustering.camera_statistics=false",
        "clustering.algorithm=kmeans",
        "clustering.clusters=8",
        "batch.identities=8",
        "batch.instances=8",
    ),
    # Everybody in one of two clusters.
    "two": (
        *FEW_STEPS,
        "clustering.algorithm=kmeans",
        "clustering.clusters=2",
        "batch.identities=2",
        "batch.instances=32",
    ),
    # Ten people in one cluster, and long.
    "long": (
        "schedule.rounds=10",
        "schedule.iterations=15",
        "clustering.algorithm=kmeans",
        "clustering.clusters=4",
        "batch.identities=4",
        "batch.instances=16",
    ),
    # Clusters of what is nearly the same picture: one person has many.
    "copies": (
        *FEW_STEPS,
        "clustering.radius=0.1",
        "clustering.min_samples=2",
        "batch.instances=2",
    ),
}
"""By name, what is changed in the recipe mmt_small beside `PLAIN`."""


def spoil(
    target: Path, init: Path, out: Path, *, seed: int, overrides: Sequence[str] = ()
) -> list[Path]:
    """Adapt one source network to a site, once for each fault, in `out`/FAULT-SEED.

    What is there stays. A run that its own guards stop keeps the rounds before, if any.
    overrides: of every recipe; a fault's own come last.
    """
    folders = [out / f"{name}-{seed}" for name in FAULTS]
    for name, folder in zip(FAULTS, folders, strict=True):
        if (folder / "run.json").exists():
            continue
        changes = (*overrides, *PLAIN.overrides, *FAULTS[name])
        recipe, recipe_name = Arm(name, PLAIN.method, name, changes).recipe()
        try:
            adapt(
                target,
                camera_pattern=None,
                inits=[init],
                recipe=recipe,
                recipe_name=recipe_name,
                out=folder,
                machine=Machine(CPU, seed),
                keep_rounds=True,
            )
        except COLLAPSE as error:
            log.warning("%s stopped itself: %s", folder.name, error)
    return folders
