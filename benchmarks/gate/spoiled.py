"""Part `spoil`: models that are meant to fail, so that the gate has something to refuse.

Runs learn hard labels alone (`PLAIN` of the methods' tables), and each has one fault. Damaged
networks are not trained at all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from adapt.runs.folder import Run
from adapt.runs.spec import RunSpec
from adapt.runs.tensor_files import save_network
from adapt.runtime.context import RunContext
from adapt.workflows.adapt import adapt
from benchmarks.methods.arms import PLAIN, Arm
from benchmarks.methods.runs import COLLAPSE, CPU

log = logging.getLogger("resight")

FEW_STEPS = ("schedule.rounds=4", "schedule.iterations=15")

FAULTS: dict[str, tuple[str, ...]] = {
    # Thirty times the recipe's learning rate.
    "fast": (*FEW_STEPS, "optimizer.lr=0.0105", "batch.identities=8"),
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
}
"""By name, what is changed in the recipe mmt_small beside `PLAIN`."""


NOISE = (0.3, 0.6, 1.0)
"""Standard deviations of the noise of `damage`, in those of each weight tensor."""


def damage(init: Path, out: Path, *, seed: int) -> list[Path]:
    """Copies of a network with noise in its weights, in `out`/noise-PERCENT-SEED.

        w + a * std(w) * e,    e standard normal, for every tensor of two dimensions or more

    They cost nothing and fill the gap between a sound network and none.
    """
    run = Run.open(init)
    folders = [out / f"noise-{round(100 * level)}-{seed}" for level in NOISE]
    for level, folder in zip(NOISE, folders, strict=True):
        if folder.exists():
            continue
        folder.mkdir(parents=True)
        net = run.network()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in net.parameters():
                if weight.ndim > 1:
                    noise = torch.randn(weight.shape, generator=generator)
                    weight.add_(level * weight.std() * noise)
        save_network(net, folder / "model.safetensors")
        (folder / "run.json").write_bytes((init / "run.json").read_bytes())
    return folders


def spoil(
    target: Path, init: Path, out: Path, *, seed: int, overrides: Sequence[str] = ()
) -> list[Path]:
    """Adapt one source network to a site, once for each fault, in `out`/FAULT-SEED.

    What is there stays. A run that its own guards stop keeps the rounds before, if any.
    overrides: of every recipe, beside the fault's own, over which they go.
    """
    folders = [out / f"{name}-{seed}" for name in FAULTS]
    for name, folder in zip(FAULTS, folders, strict=True):
        if Run.is_at(folder):
            continue
        changes = (*PLAIN.overrides, *FAULTS[name], *overrides)
        recipe, recipe_name = Arm(name, PLAIN.method, name, changes).recipe()
        spec = RunSpec(
            kind="adapt",
            recipe=recipe,
            recipe_name=recipe_name,
            seed=seed,
            inits=(init,),
            target=target,
            keep_rounds=True,
        )
        try:
            adapt(spec, RunContext(CPU), folder)
        except COLLAPSE as error:
            log.warning("%s stopped itself: %s", folder.name, error)
    return folders
