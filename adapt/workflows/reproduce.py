"""A paper's task from labelled source to scores: pre-train, adapt, evaluate, compare.

Run folders that an earlier call finished are used again: after an interruption, the first stage
that was not finished is made again from its start, and what came before it is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from adapt.data.catalog.folders import read_labelled
from adapt.data.catalog.known_sets import find_set
from adapt.errors import ConfigError, DataError, RunError
from adapt.evaluation.metrics import RetrievalScores
from adapt.evaluation.scoring import LabelledCrops, network_embedder
from adapt.methods import students_of
from adapt.recipes import apply_override, load_recipe, recipe_label
from adapt.recipes.papers import Figures, Paper, Task, find_task
from adapt.runs.folder import FolderUse, Run
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from adapt.workflows.adapt import adapt
from adapt.workflows.pretrain import pretrain
from adapt.workflows.resume import resume
from models.backbones.trunks import BACKBONES
from models.backbones.weights import TORCHVISION, check_torchvision_has
from models.files import write_atomically
from models.image import Preprocessing
from models.json_text import json_text
from models.validation import explain
from models.wording import plural

log = logging.getLogger("resight")


class _Network(BaseModel):
    """What `--set` changes outside the two recipes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Literal[BACKBONES]  # type: ignore[valid-type]
    input: Preprocessing


@dataclass(frozen=True)
class PlannedRun:
    """One run to make, and its folder."""

    spec: RunSpec
    out: Path


@dataclass(frozen=True)
class TaskPlan:
    """All of a task, decided before anything is trained.

    pretraining: one run for each network that the method starts from. changed: what `--set`
    changed; the paper's figures then cannot be compared.
    """

    name: str
    paper: Paper
    task: Task
    pretraining: tuple[PlannedRun, ...]
    adaptation: PlannedRun
    changed: tuple[str, ...]

    @property
    def source(self) -> Path:
        """Folder of the labelled set."""
        return self.pretraining[0].spec.sources[0]

    @property
    def target(self) -> Path:
        """Folder of the set that is adapted to."""
        return cast(Path, self.adaptation.spec.target)


@dataclass(frozen=True)
class TaskScores:
    """Scores of one network on the target's test part, and the paper's; None where it has none."""

    label: str
    paper: Figures | None
    ours: RetrievalScores


def plan_task(
    name: str,
    *,
    data_root: Path,
    out: Path,
    weights: str,
    seed: int,
    overrides: Sequence[str] = (),
) -> TaskPlan:
    """Find the sets and resolve the recipes of a task; trains and writes nothing.

    name: one of `adapt.recipes.papers.task_names`. out: folder of the run folders, shared by
    tasks. seed: of the adaptation and the first source network; the second has the next.
    overrides: `backbone=`, `input.height=` and the like, or a value of a stage's recipe as in
    `adapt.schedule.rounds=1`, `pretrain.optimizer.lr=1e-4`.
    Raises ConfigError, NoImagesError, WeightsError.
    """
    method, paper, task = find_task(name)
    changes = _by_stage(overrides)
    network = _network(task, paper, changes["network"])
    first = (*paper.pretrain.set, *changes["pretrain"])
    second = (*paper.adapt.set, *task.changes, *changes["adapt"])
    recipe = load_recipe(paper.adapt.recipe, method=method, overrides=second)
    students = students_of(recipe)
    _check_weights(weights, network.backbone)
    source, target = find_set(data_root, task.source), find_set(data_root, task.target)
    start = RunSpec(
        kind="pretrain",
        recipe=load_recipe(paper.pretrain.recipe, method="source", overrides=first),
        recipe_name=recipe_label(paper.pretrain.recipe, first),
        seed=seed,
        backbone=network.backbone,
        preprocessing=network.input,
        weights=weights,
        sources=(source,),
    )
    folder = f"{method}-{task.source}-{network.backbone}"
    pretraining = _with_seeds(start, range(seed, seed + students), out / folder)
    adaptation = RunSpec(
        kind="adapt",
        recipe=recipe,
        recipe_name=recipe_label(paper.adapt.recipe, second),
        seed=seed,
        backbone=network.backbone,
        preprocessing=network.input,
        inits=tuple(run.out for run in pretraining),
        target=target,
        sources=(source,) if recipe.options.source_wanted() else (),
    )
    adapted = PlannedRun(adaptation, out / f"{name}-seed{seed}")
    return TaskPlan(name, paper, task, pretraining, adapted, tuple(overrides))


def _with_seeds(spec: RunSpec, seeds: range, folder: Path) -> tuple[PlannedRun, ...]:
    """The same run with each seed, in FOLDER-seedN."""
    return tuple(
        PlannedRun(spec.changed(seed=seed), folder.with_name(f"{folder.name}-seed{seed}"))
        for seed in seeds
    )


def reproduce(plan: TaskPlan, context: RunContext) -> tuple[TaskScores, ...]:
    """Make the runs of a plan that are not finished yet, and score them on the target.

    Gives the first source network, then the adapted one, under the protocol `market`; also
    written to `scores.json` in the adaptation's folder.
    Raises what `pretrain` and `adapt` raise, ConfigError of `check_clusters`, and RunError when a
    run folder holds another run.
    """
    check_clusters(plan)
    sources = [_pretrained(planned, context) for planned in plan.pretraining]
    adapted = _adapted(plan.adaptation, sources, context)
    labelled = LabelledCrops.read(plan.target, adapted.info.preprocessing)
    rows = tuple(
        TaskScores(label, paper, labelled.score(network_embedder(run.network(), context.device)))
        for label, paper, run in (
            ("unadapted", plan.paper.unadapted_for(plan.task), sources[0]),
            ("adapted", plan.task, adapted),
        )
    )
    _write(plan, rows)
    return rows


def check_clusters(plan: TaskPlan) -> None:
    """Raise ConfigError when k-means is to find more clusters than there are crops to train on."""
    wanted = plan.adaptation.spec.recipe.clustering
    if wanted.algorithm != "kmeans" or wanted.clusters == "auto":
        return
    crops = len(read_labelled(plan.target, ("train",)))
    if wanted.clusters > crops:
        raise ConfigError(
            f"{plan.target} has {plural(crops, 'training crop')}, which cannot form "
            f"{plural(wanted.clusters, 'cluster')}: give the whole set, or --set "
            "adapt.clustering.clusters=auto"
        )


def earlier_run(planned: PlannedRun) -> Run | None:
    """The run in a planned folder, finished or to be continued; None if a new one is to be made.

    A run of an older decoder is continued with it: published sets have no EXIF orientation.
    Raises RunError when the folder holds a run that ended for good or one of another spec.
    """
    if not Run.is_at(planned.out):
        return None
    run = Run.open(planned.out)
    if run.use is FolderUse.NEW:
        return None
    if run.use is FolderUse.ENDED:
        raise RunError(
            f"{planned.out} holds a run that ended after {plural(run.info.rounds, 'round')} "
            f"({run.info.reason or run.info.state}); remove it to train it again, or choose "
            "another --out"
        )
    was, wanted = run.info.spec, planned.spec.absolute()
    if was.known_preprocessing.fits(wanted.known_preprocessing):
        wanted = wanted.model_copy(update={"preprocessing": was.preprocessing})
    compared = [name for name in RunSpec.model_fields if name not in NOT_COMPARED]
    if other := [name for name in compared if getattr(was, name) != getattr(wanted, name)]:
        raise RunError(
            f"{planned.out} holds a run with other settings ({', '.join(other)}); choose another "
            "--out or remove it"
        )
    return run


NOT_COMPARED = {
    "recipe_name": "words for people; the recipe itself is compared",
    "inits": "paths; `reproduce` compares the networks by their sha256",
    "validation": "scored for the curves; the networks do not depend on it",
    "keep_rounds": "keeps more files of the same networks",
}
"""Fields of a spec in which an earlier run may differ from the planned one, and why."""


def _finished(run: Run, context: RunContext) -> Run:
    if run.info.state == "finished":
        log.info("%s is finished: used again", run.path)
        return run
    return resume(run.path, context)


def _pretrained(planned: PlannedRun, context: RunContext) -> Run:
    run = earlier_run(planned)
    if run is not None:
        return _finished(run, context)
    return pretrain(planned.spec, context, planned.out)


def _adapted(planned: PlannedRun, sources: Sequence[Run], context: RunContext) -> Run:
    run = earlier_run(planned)
    if run is None:
        return adapt(planned.spec, context, planned.out)
    if run.info.origin.inits != tuple(source.network_hash() for source in sources):
        raise RunError(
            f"{planned.out} started from other source networks than those beside it; remove it to "
            "adapt again"
        )
    return _finished(run, context)


def _by_stage(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Overrides of the two recipes, without their stage's name, and of the network."""
    found: dict[str, list[str]] = {"pretrain": [], "adapt": [], "network": []}
    for override in overrides:
        stage, dot, rest = override.partition(".")
        if dot and stage in ("pretrain", "adapt"):
            found[stage].append(rest)
        else:
            found["network"].append(override)
    return found


def _network(task: Task, paper: Paper, overrides: Sequence[str]) -> _Network:
    raw: dict[str, Any] = {
        "backbone": task.backbone,
        "input": {"height": paper.height, "width": paper.width},
    }
    for override in overrides:
        apply_override(raw, override)
    try:
        return _Network.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            f"--set: {explain(error, _Network)}; a value of a recipe starts with pretrain. or "
            "adapt."
        ) from None


def _check_weights(weights: str, backbone: str) -> None:
    if weights == TORCHVISION:
        check_torchvision_has(backbone)
    elif not Path(weights).is_file():
        raise DataError(f"no file {weights}; check the path given for the weights")


def _write(plan: TaskPlan, rows: Sequence[TaskScores]) -> None:
    scores = {
        row.label: {
            "ours": row.ours.to_dict(),
            "paper": row.paper and row.paper.model_dump(exclude_none=True),
        }
        for row in rows
    }
    content = {"task": plan.name, "changed": plan.changed, **scores}
    write_atomically(plan.adaptation.out / "scores.json", json_text(content, indent=2).encode())
