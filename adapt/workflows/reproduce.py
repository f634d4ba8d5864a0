"""A paper's task from labelled source to scores: pre-train, adapt, evaluate, compare.

Run folders that an earlier call finished are used again: after an interruption, the first stage
that was not finished is made again from its start, and what came before it is kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from adapt.config import Recipe
from adapt.data.catalog.folders import read_labelled
from adapt.data.catalog.known_sets import find_set
from adapt.errors import ConfigError, DataError, RunError
from adapt.evaluation.metrics import RetrievalScores
from adapt.evaluation.scoring import LabelledCrops, network_embedder
from adapt.methods import METHODS
from adapt.recipes import apply_override, load_recipe, parse_recipe, recipe_label
from adapt.recipes.papers import Figures, Paper, Task, find_task
from adapt.runs.folder import Run
from adapt.workflows.fit import Machine
from adapt.workflows.resume import resume
from adapt.workflows.training import adapt, pretrain
from models.backbones.trunks import BACKBONES
from models.backbones.weights import TORCHVISION, check_torchvision_has
from models.files import write_atomically
from models.image import Preprocessing
from models.validation import explain

log = logging.getLogger("resight")


class _Network(BaseModel):
    """What `--set` changes outside the two recipes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Literal[BACKBONES]  # type: ignore[valid-type]
    input: Preprocessing


@dataclass(frozen=True)
class Stage:
    """One run to make: its recipe, the recipe's name for the record, seed and run folder."""

    recipe: Recipe
    label: str
    seed: int
    out: Path


@dataclass(frozen=True)
class Plan:
    """All of a task, decided before anything is trained.

    source, target: folders of the sets. weights: see `pretrain`. pretraining: one stage for each
    network the method starts from. changed: what `--set` changed; the paper's figures are then
    no measure.
    """

    name: str
    paper: Paper
    task: Task
    source: Path
    target: Path
    backbone: str
    preprocessing: Preprocessing
    weights: str
    pretraining: tuple[Stage, ...]
    adaptation: Stage
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Scores on the target's test part beside the paper's; None where it has none."""

    label: str
    paper: Figures | None
    ours: RetrievalScores


def make_plan(
    name: str,
    *,
    data_root: Path,
    out: Path,
    weights: str,
    seed: int,
    overrides: Sequence[str] = (),
) -> Plan:
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
    students = recipe.options.students_wanted(METHODS[method].students_wanted)
    pretraining = tuple(
        Stage(
            load_recipe(paper.pretrain.recipe, method="source", overrides=first),
            recipe_label(paper.pretrain.recipe, first),
            number,
            out / f"{method}-{task.source}-{network.backbone}-seed{number}",
        )
        for number in range(seed, seed + students)
    )
    adaptation = Stage(
        recipe,
        recipe_label(paper.adapt.recipe, second),
        seed,
        out / f"{name}-seed{seed}",
    )
    _check_weights(weights, network.backbone)
    return Plan(
        name,
        paper,
        task,
        find_set(data_root, task.source),
        find_set(data_root, task.target),
        network.backbone,
        network.input,
        weights,
        pretraining,
        adaptation,
        tuple(overrides),
    )


def reproduce(plan: Plan, machine: Machine) -> tuple[Comparison, ...]:
    """Make the runs of a plan that are not finished yet, and score them on the target.

    machine: its seed is not used, each stage has its own.
    Gives the first source network, then the adapted one, under the protocol `market`; also
    written to `scores.json` in the adaptation's folder.
    Raises what `pretrain` and `adapt` raise, ConfigError of `check_clusters`, and RunError when a
    run folder does not fit.
    """
    check_clusters(plan)
    sources = [_pretrained(plan, stage, machine) for stage in plan.pretraining]
    adapted = _adapted(plan, sources, machine)
    labelled = LabelledCrops.read(plan.target, plan.preprocessing)
    rows = tuple(
        Comparison(label, paper, labelled.score(network_embedder(run.network(), machine.device)))
        for label, paper, run in (
            ("unadapted", plan.paper.unadapted_for(plan.task), sources[0]),
            ("adapted", plan.task, adapted),
        )
    )
    _write(plan, rows)
    return rows


def check_clusters(plan: Plan) -> None:
    """Raise ConfigError when k-means is to find more clusters than there are crops to train on."""
    wanted = plan.adaptation.recipe.clustering
    if wanted.algorithm != "kmeans" or wanted.clusters == "auto":
        return
    crops = len(read_labelled(plan.target, ("train",)))
    if wanted.clusters > crops:
        raise ConfigError(
            f"{plan.target} has {crops} training crops, which cannot form {wanted.clusters} "
            "clusters: give the whole set, or --set adapt.clustering.clusters=auto"
        )


def kept(plan: Plan, stage: Stage, roots: Sequence[Path]) -> Run | None:
    """The run in a stage's folder, finished or to be continued; None if none is worth keeping.

    roots: the folders it learned from.
    Raises RunError when the folder holds a run that ended for good or one of another kind.
    """
    if not (stage.out / "run.json").is_file():
        return None
    run = Run.open(stage.out)
    if run.info.state != "finished" and not run.can_continue:
        if run.info.rounds == 0:
            return None
        raise RunError(
            f"{stage.out} holds a run that ended after {run.info.rounds} rounds "
            f"({run.info.reason or run.info.state}); remove it to train it again, or choose "
            "another --out"
        )
    was: dict[str, Any] = {
        "recipe": _recipe_of(run),
        "seed": run.info.seed,
        "backbone": run.info.backbone,
        "input size": run.info.preprocessing,
        "data": [data.root for data in run.info.data][: len(roots)],
    }
    wanted: dict[str, Any] = {
        "recipe": stage.recipe.model_dump(mode="json"),
        "seed": stage.seed,
        "backbone": plan.backbone,
        "input size": plan.preprocessing,
        "data": [str(root) for root in roots],
    }
    if stage in plan.pretraining:
        was["weights"] = run.info.weights and run.info.weights.source
        wanted["weights"] = plan.weights
    other = [name for name in wanted if was[name] != wanted[name]]
    if other:
        raise RunError(
            f"{stage.out} holds a run with other settings ({', '.join(other)}); choose another "
            "--out or remove it"
        )
    return run


def _recipe_of(run: Run) -> dict[str, Any]:
    """As written today: fields that came after the run have their defaults."""
    try:
        return parse_recipe(run.info.recipe).model_dump(mode="json")
    except ConfigError:
        return dict(run.info.recipe)  # of fields that are gone: another one


def _finished(run: Run, machine: Machine) -> Run:
    if run.info.state == "finished":
        log.info("%s is finished: used again", run.path)
        return run
    return resume(run.path, machine.device)


def _pretrained(plan: Plan, stage: Stage, machine: Machine) -> Run:
    run = kept(plan, stage, [plan.source])
    if run is not None:
        return _finished(run, machine)
    return pretrain(
        [plan.source],
        splits=("train",),
        backbone=plan.backbone,
        weights=plan.weights,
        preprocessing=plan.preprocessing,
        recipe=stage.recipe,
        recipe_name=stage.label,
        out=stage.out,
        machine=Machine(machine.device, stage.seed),
    )


def _adapted(plan: Plan, sources: Sequence[Run], machine: Machine) -> Run:
    stage = plan.adaptation
    run = kept(plan, stage, [plan.target])
    if run is None:
        return adapt(
            plan.target,
            camera_pattern=None,
            inits=[source.path for source in sources],
            recipe=stage.recipe,
            recipe_name=stage.label,
            out=stage.out,
            machine=Machine(machine.device, stage.seed),
            sources=[plan.source] if stage.recipe.options.source_wanted() else (),
        )
    if run.info.init != tuple(source.network_hash() for source in sources):
        raise RunError(
            f"{stage.out} started from other source networks than those beside it; remove it to "
            "adapt again"
        )
    return _finished(run, machine)


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


def _write(plan: Plan, rows: Sequence[Comparison]) -> None:
    scores = {
        row.label: {
            "ours": row.ours.to_dict(),
            "paper": row.paper and row.paper.model_dump(exclude_none=True),
        }
        for row in rows
    }
    content = {"task": plan.name, "changed": plan.changed, **scores}
    write_atomically(plan.adaptation.out / "scores.json", json.dumps(content, indent=2).encode())
