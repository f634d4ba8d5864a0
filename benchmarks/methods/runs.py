"""Runs for the tables: each in a process of its own, and used again if it is the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
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
from adapt.methods import students_of
from adapt.runs.folder import FolderUse, Run
from adapt.runs.info import Origin
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from adapt.runtime.device import pick_device
from adapt.types import CropSet
from adapt.workflows.adapt import adapt
from adapt.workflows.pretrain import pretrain
from adapt.workflows.resume import resume
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
    """A run to be made in a folder. crops: what it learns from. origin: of its networks."""

    spec: RunSpec
    out: Path
    crops: tuple[CropSet, ...]
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True)
class MadeRun:
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


def made(wanted: Wanted, work: Callable[[], object]) -> MadeRun:
    """The run in the folder, or the one that `work` makes there in a fresh process.

    An interrupted run is resumed. work: has to be picklable. Raises SystemExit when the folder
    holds another run.
    """
    use = Run.use_of(wanted.out)
    if use is FolderUse.RESUME:
        _refuse_other(wanted)
        alone(_measured, partial(resume, wanted.out, RunContext(CPU)), _cost_file(wanted.out))
    elif not _usable(wanted, use):
        alone(_measured, work, _cost_file(wanted.out))
    file = _cost_file(wanted.out)
    peak = json.loads(file.read_text())["peak"] if file.exists() else None
    return MadeRun(Run.open(wanted.out), peak)


def adapted(arm: Arm, site: BenchmarkSite, out: Path, seed: int) -> MadeRun:
    """One arm on one site; of the method `source` trained on the site's true labels."""
    recipe, name = arm.recipe(site.overrides)
    context, first = RunContext(CPU), site.inits[0]
    size = {"backbone": first.info.backbone, "preprocessing": site.preprocessing}
    common: dict[str, Any] = {"recipe": recipe, "recipe_name": name, "seed": seed, **size}
    if arm.method == "source":
        spec = RunSpec(kind="pretrain", weights=str(first.path), sources=(site.target,), **common)
        crops = merge_sources([read_labelled(site.target, ("train",))])
        wanted = Wanted(spec, out, (crops,), Origin(weights=first.network_hash()))
        return made(wanted, partial(pretrain, spec, context, out))
    inits = site.inits[: students_of(recipe)]
    learned = [read_site(site.target)]
    sources = (site.source,) if recipe.options.source_wanted() else ()
    if sources:
        learned.append(merge_sources([read_labelled(site.source, site.splits)]))
    spec = RunSpec(
        kind="adapt",
        inits=tuple(run.path for run in inits),
        target=site.target,
        sources=sources,
        splits=site.splits,
        keep_rounds=True,
        **common,
    )
    origin = Origin(inits=tuple(run.network_hash() for run in inits))
    wanted = Wanted(spec, out, tuple(learned), origin)
    return made(wanted, partial(adapt, spec, context, out))


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


def _usable(wanted: Wanted, use: FolderUse) -> bool:
    """Whether the run that is wanted is there, finished or collapsed; False: it may be made."""
    if use is not FolderUse.REUSE and not _collapsed(wanted.out):
        if use is FolderUse.ENDED:
            raise SystemExit(f"{wanted.out} did not finish: remove it, unless it still runs")
        return False
    _refuse_other(wanted)
    return True


def _collapsed(out: Path) -> bool:
    """Whether a run is there that collapsed, be it in its first round."""
    if not Run.is_at(out):
        return False
    return Run.open(out).info.reason in {error.reason for error in COLLAPSE}


def _refuse_other(wanted: Wanted) -> None:
    if other := differences(Run.open(wanted.out), wanted):
        raise SystemExit(f"{wanted.out} is of another {', '.join(other)}: remove it")


def differences(run: Run, wanted: Wanted) -> list[str]:
    """In what a run is not the one that is wanted; else a table of it would lie."""
    was, spec = run.info.spec, wanted.spec
    same = {
        "recipe": same_recipe(was.recipe, spec.recipe),
        "seed": was.seed == spec.seed,
        "backbone": was.backbone == spec.backbone,
        "preprocessing": was.known_preprocessing.fits(spec.known_preprocessing),
        "camera_pattern": was.camera_pattern == spec.camera_pattern,
        "weights": run.info.origin.weights == wanted.origin.weights,
        "inits": run.info.origin.inits == wanted.origin.inits,
        "data": _prints(wanted) <= {data.fingerprint for data in run.info.data},
    }
    return [name for name, is_same in same.items() if not is_same]


def _prints(wanted: Wanted) -> set[str]:
    size = wanted.spec.known_preprocessing
    return {load_crops(crops, size).crops.fingerprint for crops in wanted.crops}


def same_recipe(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes train alike: descriptions do not count, nor clusters in pre-training."""
    unimportant = {"source"} | ({"clustering"} if one.method == "source" else set())
    first, second = (each.model_dump(exclude=unimportant) for each in (one, other))
    return first == second
