"""Runs for the tables: each in a process of its own, and used again if it is the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adapt.config import Recipe
from adapt.data.catalog.folders import read_labelled, read_site
from adapt.data.catalog.sources import merge_sources
from adapt.data.catalog.splits import Split
from adapt.data.decoding.loading import load_crops
from adapt.errors import (
    AttentionError,
    ClusteringError,
    DivergedError,
    NonFiniteFeaturesError,
    NothingLearnedError,
    TrainingError,
)
from adapt.evaluation.scoring import LabelledCrops
from adapt.methods import METHODS
from adapt.runs.folder import Run
from adapt.runtime.device import pick_device
from adapt.types import CropSet
from adapt.workflows.fit import Machine
from adapt.workflows.resume import resume
from adapt.workflows.training import adapt, pretrain
from benchmarks.alone import alone, memory
from benchmarks.methods.arms import Arm
from models.files import write_atomically
from models.image import Preprocessing

CPU = pick_device("cpu")

COLLAPSE = (
    ClusteringError,
    TrainingError,
    DivergedError,
    NothingLearnedError,
    AttentionError,
    NonFiniteFeaturesError,
)
"""How a method may end early; any other error is a fault of the benchmark and stops it."""


@dataclass(frozen=True)
class BenchmarkSite:
    """Where methods are adapted and judged.

    target: folder to adapt to. source, splits: labelled crops that the source networks learned.
    inits: two source networks. judged: what everything is scored on. overrides: of every recipe.
    """

    target: Path
    source: Path
    splits: tuple[Split, ...]
    inits: tuple[Run, Run]
    judged: LabelledCrops
    overrides: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the networks."""
        return self.inits[0].info.preprocessing


@dataclass(frozen=True)
class Wanted:
    """All that decides a run. crops: what it learns from. weights: sha256 of what it starts from,
    if it pre-trains; init: of the networks, if it adapts."""

    out: Path
    recipe: Recipe
    seed: int
    backbone: str
    preprocessing: Preprocessing
    crops: tuple[CropSet, ...]
    weights: str | None = None
    init: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    peak: most resident memory of its process, bytes; None where the run was made otherwise.
    """

    run: Run
    peak: int | None

    @property
    def collapse(self) -> str:
        """Reason of the collapse that stopped it, or nothing."""
        return self.run.info.reason

    @property
    def minutes(self) -> float:
        """Training time, without loading."""
        return self.run.info.seconds / 60

    @property
    def ended(self) -> str:
        """In words."""
        if not self.collapse:
            return "finished"
        return f"stopped in round {self.run.info.rounds + 1} ({self.collapse})"

    def finished(self) -> Run:
        """The run, where no other will do. Raises SystemExit when it collapsed."""
        if self.collapse:
            raise SystemExit(f"{self.run.path} {self.ended}: {self.run.info.error}")
        return self.run


def made(wanted: Wanted, work: Callable[[], object]) -> Outcome:
    """The run that is there, or `work` done in a fresh process, which leaves it there.

    A run that was interrupted is resumed. work: has to be picklable. Raises SystemExit when
    another run is there.
    """
    there = (wanted.out / "run.json").exists()
    if there and Run.open(wanted.out).can_continue:
        _refuse_other(wanted)
        alone(_measured, partial(resume, wanted.out, CPU), _cost_file(wanted.out))
    elif not there or not _usable(wanted):
        alone(_measured, work, _cost_file(wanted.out))
    file = _cost_file(wanted.out)
    peak = json.loads(file.read_text())["peak"] if file.exists() else None
    return Outcome(Run.open(wanted.out), peak)


def adapted(arm: Arm, site: BenchmarkSite, out: Path, seed: int) -> Outcome:
    """One arm on one site; of the method `source` trained on the site's true labels."""
    recipe, name = arm.recipe(site.overrides)
    common: dict[str, Any] = {
        "recipe": recipe,
        "recipe_name": name,
        "out": out,
        "machine": Machine(CPU, seed),
    }
    first = site.inits[0]
    decided = partial(Wanted, out, recipe, seed, first.info.backbone, site.preprocessing)
    if arm.method == "source":
        crops = merge_sources([read_labelled(site.target, ("train",))])
        return made(
            decided((crops,), weights=first.network_hash()),
            partial(
                pretrain,
                [site.target],
                splits=("train",),
                backbone=first.info.backbone,
                weights=str(first.path),
                preprocessing=site.preprocessing,
                **common,
            ),
        )
    inits = site.inits[: recipe.options.students_wanted(METHODS[arm.method].students_wanted)]
    learned = [read_site(site.target)]
    sources = [site.source] if recipe.options.source_wanted() else []
    if sources:
        learned.append(merge_sources([read_labelled(site.source, site.splits)]))
    return made(
        decided(tuple(learned), init=tuple(run.network_hash() for run in inits)),
        partial(
            adapt,
            site.target,
            camera_pattern=None,
            inits=[run.path for run in inits],
            sources=sources,
            splits=site.splits,
            keep_rounds=True,
            **common,
        ),
    )


def _measured(work: Callable[[], object], file: Path) -> None:
    """Do the work, which may collapse, and write down what it held in memory.

    The kernel's VmHWM, since getrusage's ru_maxrss of a new process starts from its parent's.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with suppress(*COLLAPSE):  # run.json says so
        work()
    write_atomically(file, json.dumps({"peak": memory("VmHWM")}).encode())


def _cost_file(out: Path) -> Path:
    """Beside the run folder, which belongs to the run."""
    return out.with_name(f"{out.name}.cost.json")


def _usable(wanted: Wanted) -> bool:
    """Whether the run that is there is the one that is wanted; False: it may be made anew."""
    run = Run.open(wanted.out)
    collapsed = run.info.reason in {error.reason for error in COLLAPSE}
    if run.info.state != "finished" and not collapsed:
        if run.info.rounds:
            raise SystemExit(f"{wanted.out} did not finish: remove it, unless it still runs")
        return False
    _refuse_other(wanted)
    return True


def _refuse_other(wanted: Wanted) -> None:
    if other := differences(Run.open(wanted.out), wanted):
        raise SystemExit(f"{wanted.out} is of another {', '.join(other)}: remove it")


def differences(run: Run, wanted: Wanted) -> list[str]:
    """In what a run is not the one that is wanted; else a table of it would lie."""
    info = run.info
    weights = info.weights and info.weights.sha256
    fits = {
        "recipe": same_recipe(info.recipe, wanted.recipe),
        "seed": info.seed == wanted.seed,
        "backbone": info.backbone == wanted.backbone,
        "preprocessing": info.preprocessing == wanted.preprocessing,
        "camera_pattern": info.camera_pattern is None,
        "weights": weights == wanted.weights,
        "init": info.init == wanted.init,
        "data": _prints(wanted) <= {data.fingerprint for data in info.data},
    }
    return [name for name, fit in fits.items() if not fit]


def _prints(wanted: Wanted) -> set[str]:
    return {load_crops(c, wanted.preprocessing).crops.fingerprint for c in wanted.crops}


def same_recipe(kept: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether a run's recipe is this one, but for its description.

    Fields that came after the run count as their defaults, which change nothing of what was.
    Pre-training clusters nothing.
    """
    default = Recipe(method=recipe.method, options=type(recipe.options)())
    unimportant = {"source"} | ({"clustering"} if recipe.method == "source" else set())
    now, before = (r.model_dump(mode="json", exclude=unimportant) for r in (recipe, default))
    for name, section in before.items():
        if isinstance(section, dict):
            section |= kept.get(name, {})
        else:
            before[name] = kept.get(name)
    return now == before
