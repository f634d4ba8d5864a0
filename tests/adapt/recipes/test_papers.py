"""The papers' tasks: whole, possible, and the recipes they name hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import ConfigError
from adapt.methods import METHODS
from adapt.methods.mmt import MMTOptions
from adapt.recipes import load_recipe
from adapt.recipes.papers import (
    Figures,
    Paper,
    StageRecipe,
    Task,
    find_task,
    load_paper,
    paper_names,
    task_names,
)

PAIRS = {("duke", "market"), ("market", "duke"), ("market", "msmt17"), ("duke", "msmt17")}
ROW = {"table": 1, "source": "duke", "target": "market", "backbone": "resnet50"}


@pytest.mark.parametrize("name", paper_names())
def test_every_paper_has_the_four_tasks(name: str) -> None:
    paper = load_paper(name)
    assert paper.citation
    assert {(t.source, t.target) for t in paper.task} == PAIRS
    backbones = {t.backbone for t in paper.task}
    assert backbones == ({"resnet50", "resnet50_ibn_a"} if name in ("mmt", "hli") else {"resnet50"})


@pytest.mark.parametrize("name", METHODS)
def test_the_recipes_of_every_task_hold(name: str) -> None:
    paper = load_paper(name)
    load_recipe(paper.pretrain.recipe, method="source", overrides=paper.pretrain.set)
    for task in paper.task:
        recipe = load_recipe(
            paper.adapt.recipe, method=name, overrides=(*paper.adapt.set, *task.changes)
        )
        assert not recipe.clustering.camera_centering, "no paper evens out cameras"
        assert not recipe.clustering.camera_statistics
        if task.clusters is not None:
            assert recipe.clustering.clusters == task.clusters


def test_mmts_task_by_hand() -> None:
    """Table 1 and section 4.2."""
    paper_name, paper, task = find_task("mmt-duke-market-resnet50-500")
    assert (paper_name, task.table) == ("mmt", 1)
    assert (task.mAP, task.top1, task.top5, task.top10) == (71.2, 87.7, 94.9, 96.9)
    before = paper.unadapted_for(task)
    assert before is not None
    assert (before.mAP, before.top1, before.top5, before.top10) == (31.8, 61.9, 76.4, 82.2)
    assert (paper.height, paper.width) == (256, 128)
    recipe = load_recipe("mmt", method="mmt", overrides=(*paper.adapt.set, *task.changes))
    assert isinstance(recipe.options, MMTOptions)
    assert (recipe.options.lambda_id, recipe.options.lambda_tri, recipe.options.ema) == (
        *(0.5, 0.8),
        0.999,
    )
    assert (recipe.clustering.algorithm, recipe.clustering.clusters) == ("kmeans", 500)


@pytest.mark.parametrize(
    ("task", "figures"),
    [
        ("nrmt-duke-market-resnet50", (71.7, 87.8, 94.6, 96.5)),
        ("nrmt-market-msmt17-resnet50", (19.8, 43.7, 56.5, 62.2)),
        ("hli-market-duke-resnet50_ibn_a-700", (68.8, 82.5, 90.7, 93.0)),
        ("hli-duke-msmt17-resnet50-1500", (30.8, 62.7, 74.7, 79.1)),
        ("aml-duke-market-resnet50", (75.5, 88.7, None, None)),
        ("daal-market-duke-resnet50", (63.9, 77.6, None, None)),
    ],
)
def test_figures_as_printed(task: str, figures: tuple[float | None, ...]) -> None:
    _, _, row = find_task(task)
    assert (row.mAP, row.top1, row.top5, row.top10) == figures


def test_unadapted_figures_are_those_of_nrmts_first_network() -> None:
    """Table 4, direct transfer; `reproduce` scores the first source network, too."""
    _, paper, task = find_task("nrmt-market-duke-resnet50")
    before = paper.unadapted_for(task)
    assert before is not None
    assert (before.table, before.mAP, before.top1, before.top5, before.top10) == (
        *(4, 30.2, 47.3),
        *(61.9, 68.2),
    )
    assert paper.unadapted_for(find_task("nrmt-duke-msmt17-resnet50")[2]) is None


def test_aml_weighs_similarity_otherwise_for_msmt17() -> None:
    """Section 4.2: beta 0.7, and 0.9 when the target is MSMT17."""
    changes = {task.target: task.changes for task in load_paper("aml").task}
    assert changes == {"market": (), "duke": (), "msmt17": ("options.beta=0.9",)}


def test_names_are_unique_and_lead_back() -> None:
    names = task_names()
    assert len(set(names)) == len(names) == 28 + 28 + 4 + 4 + 4
    assert all(f"{find_task(name)[0]}-{find_task(name)[2].name}" == name for name in names[::9])


def test_an_unknown_task_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"mmt-duke-market-resnet50-500, mmt-duke"):
        find_task("mmt-duke-market-resnet50")
    with pytest.raises(ConfigError, match="tasks of aml, daal, hli, mmt, nrmt, such as"):
        find_task("spcl-duke-market")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "duke"}, "the same set"),
        ({"backbone": "resnet51"}, "no backbone"),
        ({"mAP": 101}, "less than or equal to 100"),
        ({"top5": 80.0}, "must not fall"),
        ({"source": "viper"}, "market"),
        ({"rank1": 80.0}, "Extra inputs"),
    ],
)
def test_impossible_rows_are_refused(change: dict[str, object], message: str) -> None:
    Figures.model_validate({**ROW, "mAP": 70, "top1": 90})
    with pytest.raises(ValidationError, match=message):
        Figures.model_validate({**ROW, "mAP": 70, "top1": 90, **change})


def test_a_task_is_given_once() -> None:
    task = Task.model_validate({**ROW, "mAP": 70, "top1": 90, "clusters": 500})
    other = task.model_copy(update={"clusters": 700})
    stage = StageRecipe(recipe="mmt")
    assert len(Paper(citation="x", adapt=stage, task=(task, other)).task) == 2
    with pytest.raises(ValidationError, match="two rows for duke-market-resnet50-500"):
        Paper(citation="x", adapt=stage, task=(task, task))
