"""A small adaptation, killed by SIGKILL at random moments and resumed, beside an unbroken one."""

from __future__ import annotations

import json
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapt.methods import METHODS
from adapt.recipes import load_recipe
from adapt.resuming import resume
from adapt.running import Machine
from adapt.runs.folder import Run
from adapt.training import adapt, pretrain
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
"""AML clusters distances, and lists neighbours."""

CROPS, PEOPLE = 240, 24
AFTER = 0.8
"""Moments are drawn from so many times the seconds of the unbroken run, so that several hit."""


def source_run(folder: Path, seed: int, backbone: str = BACKBONE) -> Path:
    """A network that has hardly learnt anything; a network is all that is wanted of it."""
    write_site(folder / "source" / "bounding_box_train", crops=16, clusters=4)
    made = ["schedule.rounds=1", "schedule.iterations=1", "schedule.passes=0"]
    made += ["batch.identities=4", "batch.instances=2", "batch.ghost=0"]
    recipe = load_recipe("source_small", method="source", overrides=made)
    out = folder / f"init-{seed}"
    if not out.exists():
        pretrain(
            [folder / "source"],
            splits=("train",),
            backbone=backbone,
            weights=None,
            preprocessing=SIZE,
            recipe=recipe,
            recipe_name="benchmark",
            out=out,
            machine=Machine(CPU, seed),
        )
    return out


def adapted(site: Path, inits: list[Path], method: str, out: Path) -> None:
    """The adaptation, begun or gone on with."""
    if (out / "run.json").exists() and Run.open(out).can_continue:
        resume(out, CPU)
        return
    recipe = load_recipe(f"{method}_small", method=method, overrides=(*SMALL, *OWN.get(method, ())))
    adapt(
        site,
        camera_pattern=None,
        inits=inits[: recipe.options.students_wanted(METHODS[method].students_wanted)],
        recipe=recipe,
        recipe_name="benchmark",
        out=out,
        machine=Machine(CPU, 1),
        keep_rounds=True,
    )


def kills(folder: Path, count: int, method: str, seed: int) -> bool:
    """Kill a run `count` times, let it end; say what happened and whether nothing differs."""
    write_site(folder / "site", crops=CROPS, clusters=PEOPLE)
    inits = [alone(source_run, folder, n) for n in (1, 2)]
    work = partial(adapted, folder / "site", inits, method)
    start = time.perf_counter()
    alone(work, folder / "whole")
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(seed)
    hit = 0
    spawn = multiprocessing.get_context("spawn")
    while hit < count:
        out = folder / "killed"
        child = spawn.Process(target=work, args=(out,))
        child.start()
        child.join(rng.uniform(0, AFTER * seconds))
        where = _where(out)
        if child.is_alive():
            child.kill()
            child.join()
            hit += 1
            print(f"kill {hit}: {where}", flush=True)
        elif child.exitcode:
            raise SystemExit(f"{out} failed by itself: exit code {child.exitcode}")
        else:  # it had ended: another one
            _compare(folder)
            _forget(out)
    alone(work, folder / "killed")
    same = _compare(folder)
    print(f"{hit} kills of {method}, unbroken {seconds:.0f} s: {'the same' if same else 'DIFFERS'}")
    return same


def _where(out: Path) -> str:
    if not (out / "run.json").exists():
        return "before there was a run"
    info = json.loads((out / "run.json").read_text())
    return f"{info['state']}, {info['rounds']} rounds done"


def _compare(folder: Path) -> bool:
    """Networks, labels and figures, but for seconds."""
    whole, killed = (_outcome(folder / name) for name in ("whole", "killed"))
    return whole == killed


def _outcome(out: Path) -> tuple[Any, ...]:
    run = Run.open(out)
    rows = [{k: v for k, v in row.items() if not k.startswith("seconds_")} for row in run.metrics()]
    files = {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*.safetensors")}
    return run.info.state, rows, files


def _forget(out: Path) -> None:
    for file in sorted(out.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
