"""`resight reproduce`: a paper's task on the user's copies of the sets, ours beside the paper's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import table
from cli.training import Device

if TYPE_CHECKING:
    from adapt.evaluation.metrics import RetrievalScores
    from adapt.recipes.papers import Figures
    from adapt.workflows.reproduce import PlannedRun, TaskPlan

log = logging.getLogger("resight")

_RANKS = (("mAP", "mAP"), ("top1", "cmc1"), ("top5", "cmc5"), ("top10", "cmc10"))
"""Columns: names in a paper's row and in our scores."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(reproduce)


def reproduce(
    recipe: Annotated[
        str, typer.Argument(help="Task of a paper, e.g. mmt-duke-market-resnet50-500.")
    ],
    data_root: Annotated[Path, typer.Option(help="Folder that holds the data sets.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the run folders; finished runs in it are reused.")
    ] = Path("reproduced"),
    weights: Annotated[
        str, typer.Option(help="State dict to pre-train from, or `torchvision` to download.")
    ] = "torchvision",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change pretrain.NAME=, adapt.NAME=, input.NAME= or backbone=; repeatable.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of the adaptation and first source network.")
    ] = 1,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print data sets, runs and recipes; train nothing.")
    ] = False,
) -> None:
    """Pre-train, adapt and score a paper's task, and print our figures beside the paper's."""
    from adapt.runtime.context import RunContext
    from adapt.runtime.device import pick_device
    from adapt.runtime.distributed import refuse_several
    from adapt.workflows.reproduce import plan_task
    from adapt.workflows.reproduce import reproduce as run_all

    refuse_several("`reproduce`")
    plan = plan_task(
        recipe,
        data_root=data_root,
        out=out,
        weights=weights,
        seed=seed,
        overrides=overrides or (),
    )
    picked = pick_device(device)
    if dry_run:
        typer.echo(_planned(plan))
        return
    rows = run_all(plan, RunContext(picked))
    typer.echo(_heading(plan))
    typer.echo(_compared([(row.label, row.paper, row.ours) for row in rows]))
    typer.echo(f"scored on {rows[0].ours.in_words()}")
    for doubt in rows[0].ours.doubts():
        log.warning("%s", doubt)


def _heading(plan: TaskPlan) -> str:
    lines = [f"{plan.name}: {plan.paper.citation}, table {plan.task.table}, per cent"]
    if plan.paper.note:
        lines.append(plan.paper.note)
    if plan.changed:
        lines.append(f"not the paper's setting: {', '.join(plan.changed)}")
    return "\n".join(lines)


def _compared(rows: Sequence[tuple[str, Figures | None, RetrievalScores | None]]) -> str:
    """Rows of the paper and of ours, each where there is one, below each other."""
    cells = []
    for label, paper, ours in rows:
        if paper is not None:
            figures = (getattr(paper, theirs) for theirs, _ in _RANKS)
            shown = ["" if figure is None else f"{figure:.1f}" for figure in figures]
            cells.append([label, "paper", *shown])
        if ours is not None:
            scores = ours.to_dict()
            cells.append(
                [label, "ours", *(f"{100 * float(scores[name]):.1f}" for _, name in _RANKS)]
            )
    return table(["network", "figures", "mAP", "top-1", "top-5", "top-10"], cells, (2, 3, 4, 5))


def _planned(plan: TaskPlan) -> str:
    from adapt.data.catalog.folders import read_labelled
    from adapt.workflows.reproduce import check_clusters, earlier_run

    check_clusters(plan)
    lines = [_heading(plan)]
    for role, root in (("source", plan.source), ("target", plan.target)):
        train, query, gallery = (
            len(read_labelled(root, (split,))) for split in ("train", "query", "gallery")
        )
        lines.append(f"{role}  {root}: {train} training, {query} query, {gallery} gallery crops")

    def line(planned: PlannedRun) -> str:
        run = earlier_run(planned)
        state = "to do"
        if run is not None:
            done = run.info.state == "finished"
            state = "finished" if done else f"continues in round {run.info.rounds + 1}"
        return f"{state}  {planned.out}: {planned.spec.recipe_name}, seed {planned.spec.seed}"

    start = plan.pretraining[0].spec
    size = start.known_preprocessing
    lines.append(f"{start.backbone} at {size.height}x{size.width} from {start.weights}")
    lines += [line(planned) for planned in (*plan.pretraining, plan.adaptation)]
    before = plan.paper.unadapted_for(plan.task)
    lines.append(_compared([("unadapted", before, None), ("adapted", plan.task, None)]))
    return "\n".join(lines)
