"""A small adaptation, killed by SIGKILL at random moments and resumed, beside an unbroken one."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapt.methods import students_of
from adapt.recipes import load_recipe
from adapt.runs.folder import FolderUse, Run
from adapt.runs.listing import NOT_LEARNED
from adapt.runs.spec import RunSpec
from adapt.runtime.context import CHECKPOINT_SECONDS, RunContext
from adapt.workflows.adapt import adapt
from adapt.workflows.pretrain import pretrain
from adapt.workflows.resume import resume
from benchmarks.alone import alone
from benchmarks.train.site import write_site
from models.image import Preprocessing

BACKBONE = "mobilenet_v2"
SIZE = Preprocessing(height=64, width=32)
CPU = torch.device("cpu")
SMALL = (
    *("schedule.rounds=4", "schedule.iterations=4", "schedule.passes=0"),
    *("batch.identities=4", "batch.instances=4", "batch.ghost=0", "augment.pad=2"),
    *("clustering.algorithm=kmeans", "clustering.clusters=12"),
)
OWN = {
    "aml": (
        *("clustering.algorithm=dbscan", "clustering.k1=6", "clustering.k2=2"),
        *("clustering.min_samples=3", "options.merge_nearest=1", "options.merge_cross_camera=2"),
    )
}
"""AML clusters distances, and lists neighbors."""

CROPS, PEOPLE = 240, 24
SOURCE = "source"


def source_run(folder: Path, seed: int, backbone: str = BACKBONE) -> Path:
    """A network that has hardly learned anything; a network is all that is wanted of it."""
    write_site(folder / SOURCE / "bounding_box_train", crops=16, clusters=4)
    made = ["schedule.rounds=1", "schedule.iterations=1", "schedule.passes=0"]
    made += ["batch.identities=4", "batch.instances=2", "batch.ghost=0"]
    recipe = load_recipe("source_small", method="source", overrides=made)
    out = folder / f"init-{seed}"
    if not out.exists():
        spec = RunSpec(
            kind="pretrain",
            recipe=recipe,
            recipe_name="benchmark",
            seed=seed,
            backbone=backbone,
            preprocessing=SIZE,
            sources=(folder / SOURCE,),
        )
        pretrain(spec, RunContext(CPU), out)
    return out


def adapted(
    folder: Path, inits: list[Path], method: str, out: Path, seconds: float = CHECKPOINT_SECONDS
) -> None:
    """Adaptation to FOLDER/site, new or resumed.

    seconds: how often its state is saved within a round.
    """
    context = RunContext(CPU, checkpoint_seconds=seconds)
    if Run.use_of(out) is FolderUse.RESUME:
        resume(out, context)
        return
    recipe = load_recipe(f"{method}_small", method=method, overrides=(*SMALL, *OWN.get(method, ())))
    wanted = students_of(recipe)
    spec = RunSpec(
        kind="adapt",
        recipe=recipe,
        recipe_name="benchmark",
        seed=1,
        inits=tuple(inits[:wanted]),
        target=folder / "site",
        sources=(folder / SOURCE,) if recipe.options.source_wanted() else (),
        keep_rounds=True,
    )
    adapt(spec, context, out)


def kills(
    folder: Path, count: int, method: str, seed: int, checkpoint_seconds: float = CHECKPOINT_SECONDS
) -> bool:
    """Kill runs `count` times and resume them; say where, and whether all end as one unbroken.

    Moments are drawn from the seconds of the unbroken run. A run that ends before its moment
    is compared, and another one begun. checkpoint_seconds: how often the state is kept within a
    round; with 0 after each step, so that most kills meet a state of within a round.
    """
    write_site(folder / "site", crops=CROPS, clusters=PEOPLE)
    inits = [alone(source_run, folder, n) for n in (1, 2)]
    work = partial(adapted, folder, inits, method, seconds=checkpoint_seconds)
    start = time.perf_counter()
    alone(work, folder / "whole")
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(seed)
    hit, ended, same = 0, 0, 0
    spawn = multiprocessing.get_context("spawn")
    killed = folder / "killed"
    while True:
        child = spawn.Process(target=work, args=(killed,))
        child.start()
        child.join(rng.uniform(0, seconds) if hit < count else None)
        if child.is_alive():
            child.kill()
            child.join()
            hit += 1
            print(f"kill {hit}: {where(killed)}", flush=True)
            continue
        if child.exitcode:
            raise SystemExit(f"{killed} failed by itself: exit code {child.exitcode}")
        ended += 1
        same += _outcome(folder / "whole") == _outcome(killed)
        if hit == count:
            break
        shutil.rmtree(killed)
    print(
        f"{hit} kills of {method} ({seconds:.0f} s unbroken): {same} of {ended} runs are the same"
    )
    return same == ended


def where(out: Path) -> str:
    """The round that a killed run was in, and what it can be resumed from."""
    if not Run.is_at(out):
        return "before there was a run"
    run = Run.open(out)
    done = f"{run.info.state} in round {run.info.rounds + 1}"
    if not run.can_continue:
        return f"{done}, no checkpoint"
    notes = run.load_checkpoint()[1]
    rounds, steps = notes["round"], notes["steps_in_round"]
    if steps:
        return f"{done}, checkpoint within round {rounds + 1}, after {steps} steps"
    return f"{done}, checkpoint between rounds, {rounds} done"


def _outcome(out: Path) -> tuple[Any, ...]:
    """How it ended, figures but for time and memory, networks and labels of all rounds."""
    run = Run.open(out)
    rows = [
        {k: v for k, v in row.items() if not k.startswith(NOT_LEARNED)} for row in run.metrics()
    ]
    files = {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*.safetensors")}
    return run.info.state, rows, files
