"""The papers' constants, written out here, against the recipes and the papers' tasks.

A value is the paper's unless a comment names another source. A task is what the paper did; a recipe
may leave its task's settings only where DEPARTURES says so.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.clustering.clusterer import Clusterer  # noqa: E402
from adapt.config import Recipe  # noqa: E402
from adapt.methods import METHODS, students_of  # noqa: E402
from adapt.recipes import load_recipe  # noqa: E402
from adapt.recipes.papers import Task, load_paper  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

RHO_RULE = {  # of UDAP; AML prints it as a radius, DAAL sweeps both numbers and prints none
    "clustering.algorithm": "dbscan",
    "clustering.radius": "rho",
    "clustering.rho": 1.6e-3,
    "clustering.min_samples": 4,
}
RERANKING = {  # of Zhong et al. 2017; none of the papers gives its numbers
    "clustering.k1": 20,
    "clustering.k2": 6,
    "clustering.variant": "classic",
}
AUGMENT_OF_MMT = {  # of its public code
    "augment.flip": 0.5,
    "augment.pad": 10,
    "augment.erase": 0.5,
    "augment.erase_area_min": 0.02,
    "augment.erase_area_max": 0.4,
    "augment.erase_aspect": 0.3,
}
CONSTANT_RATE = {
    "optimizer.warmup_rounds": 0,
    "optimizer.milestones": (),
    "optimizer.drops": (),
    "optimizer.new_layers": 1.0,
}
BATCH_OF_MMT = {
    "batch.identities": 16,
    "batch.instances": 4,
    "batch.across_cameras": True,  # public code
}

CONSTANTS: dict[str, dict[str, object]] = {
    "mmt": {
        "clustering.algorithm": "kmeans",
        **BATCH_OF_MMT,
        "batch.ghost": 16,  # four GPUs
        **AUGMENT_OF_MMT,
        "optimizer.algorithm": "adam",
        "optimizer.lr": 3.5e-4,
        "optimizer.weight_decay": 5e-4,
        **CONSTANT_RATE,
        "schedule.rounds": 40,
        "schedule.iterations": 400,  # public scripts; the paper has 800
        "schedule.passes": 0,
        "options.lambda_id": 0.5,
        "options.lambda_tri": 0.8,
        "options.ema": 0.999,
        # Public code, from here on.
        "options.label_smoothing": 0.1,
        "options.ema_ramp": True,
        "options.clustered": "averages",
        "options.normalize_mean": False,
        "options.classifier": "centers",
        "options.fresh_optimizer": True,
    },
    "nrmt": {
        "clustering.algorithm": "hdbscan",
        "clustering.min_samples": 8,
        "clustering.min_cluster_size": 8,
        **RERANKING,
        "batch.identities": 32,
        "batch.instances": 4,
        "batch.across_cameras": False,  # "randomly sample ... 4 images per identity"
        "batch.ghost": 0,
        "augment.flip": 0.5,
        "augment.pad": 0,
        "augment.erase": 0.5,
        "augment.erase_area_max": 0.2,  # UDAP
        "augment.erase_aspect": 0.3,  # UDAP
        "optimizer.algorithm": "sgd",
        "optimizer.momentum": 0.9,
        "optimizer.lr": 6e-5,
        "optimizer.weight_decay": 0.0,  # UDAP
        **CONSTANT_RATE,
        "schedule.rounds": 30,
        "schedule.passes": 70,  # UDAP
        "options.margin": 0.5,
        "options.confidence": 1.0,
        "options.disagreement": 0.5,
        "options.components": "cc+sc+sd",
        "options.thresholds": "raw",
        "options.mining": "pairs",  # UDAP
    },
    "hli": {
        "clustering.algorithm": "kmeans",
        **BATCH_OF_MMT,
        "batch.ghost": 16,  # as MMT
        "augment.flip": 0.5,  # as MMT
        "augment.pad": 10,  # as MMT
        "augment.erase": 0.0,  # options.erase takes its place
        "optimizer.algorithm": "adam",
        "optimizer.lr": 3.5e-4,
        "optimizer.weight_decay": 5e-4,  # of its pre-training
        **CONSTANT_RATE,
        "schedule.rounds": 60,
        "schedule.iterations": 400,  # as MMT
        "schedule.passes": 0,
        "options.lambda_id": 0.5,
        "options.lambda_tri": 1.0,
        "options.lambda_imi": 0.5,
        "options.alpha": 0.5,
        "options.beta": 0.5,
        "options.lambda_sd": 1.0,
        "options.erase": 0.4,
        "options.erase_area_max": 0.2,  # ours: docs/methods/hli.md, 4
        "options.ema": 0.999,
        "options.label_smoothing": 0.1,  # as MMT
    },
    "aml": {
        **RHO_RULE,
        **RERANKING,
        **BATCH_OF_MMT,  # silent
        "batch.ghost": 0,
        **AUGMENT_OF_MMT,  # silent
        "optimizer.algorithm": "adam",
        "optimizer.lr": 3e-5,
        **CONSTANT_RATE,
        "optimizer.milestones": (10,),
        "optimizer.decay": 0.1,
        "schedule.rounds": 30,  # silent
        "schedule.iterations": 400,  # silent
        "schedule.passes": 0,
        "options.labels": "asymmetric",
        "options.merge_nearest": 3,
        "options.merge_cross_camera": 15,
        "options.merge_threshold": 0.5,
        "options.lambda_id": 0.01,
        "options.margin": 0.3,  # bag of tricks
        "options.label_smoothing": 0.1,  # bag of tricks
    },
    "daal": {
        **RHO_RULE,
        **RERANKING,
        "batch.ghost": 0,
        **AUGMENT_OF_MMT,  # the same kinds, without numbers
        "optimizer.algorithm": "sgd",
        "optimizer.momentum": 0.9,
        "optimizer.lr": 1.5e-4,
        "optimizer.new_layers": 0.2,  # 3e-5
        "optimizer.weight_decay": 5e-4,  # silent
        "optimizer.warmup_rounds": 0,
        "optimizer.milestones": (),
        "optimizer.decay": 0.1,
        "schedule.rounds": 5,
        "schedule.passes": 260,
        "options.labels": "soft",
        "options.epsilon": 0.9,
        "options.normalize": False,
        "options.attention": "residual",
        "options.domain_branch": True,
        "options.source": "given",
    },
}

CAMERAS: dict[str, tuple[object, object]] = {
    "clustering.camera_centering": (True, False),
    "clustering.camera_statistics": (True, False),
}
NUMBER_OF_PEOPLE: dict[str, tuple[object, object]] = {"clustering.clusters": ("auto", "M_t")}
DEPARTURES: dict[str, dict[str, tuple[object, object]]] = {
    "mmt": CAMERAS | NUMBER_OF_PEOPLE,
    "nrmt": CAMERAS,
    "hli": CAMERAS | NUMBER_OF_PEOPLE,
    "aml": CAMERAS,
    "daal": CAMERAS,
}
"""What a recipe has, and its task instead: a site's cameras differ, and nobody knows its M_t."""

M_T = {"market": {500, 700, 900}, "duke": {500, 700, 900}, "msmt17": {500, 1000, 1500, 2000}}
SIZES = dict.fromkeys(("mmt", "nrmt", "hli", "aml"), (256, 128)) | {"daal": (384, 128)}
"""Height and width; AML gives none."""

NETWORKS = {  # trained, averages of them, and what is kept
    "mmt": (2, 2, "average"),
    "nrmt": (2, 0, "trained"),
    "hli": (1, 1, "average"),
    "aml": (2, 0, "trained"),
    "daal": (1, 0, "trained"),
}


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe by section.name."""
    sections = recipe.model_dump()
    return {
        f"{section}.{name}": value
        for section, values in sections.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }


def of_task(method: str, task: Task) -> dict[str, Any]:
    stage = load_paper(method).adapt
    return flat(load_recipe(stage.recipe, method=method, overrides=(*stage.set, *task.changes)))


@pytest.mark.parametrize("method", METHODS)
def test_recipes_and_tasks_hold_the_papers_constants(method: str) -> None:
    wanted = CONSTANTS[method]
    recipe = flat(load_recipe(method, method=method))
    assert {key: recipe[key] for key in wanted} == wanted
    for task in load_paper(method).task:
        found = of_task(method, task)
        assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_differs_from_its_task_where_that_is_said_and_nowhere_else(method: str) -> None:
    recipe = flat(load_recipe(method, method=method))
    for task in load_paper(method).task:
        found = of_task(method, task)
        by_the_task = {change.partition("=")[0] for change in task.set}
        differ = {k: (recipe[k], found[k]) for k in recipe if recipe[k] != found[k]}
        if task.clusters is not None:
            assert task.clusters in M_T[task.target]
            assert differ["clustering.clusters"] == ("auto", task.clusters)
            differ["clustering.clusters"] = ("auto", "M_t")
        assert {k: v for k, v in differ.items() if k not in by_the_task} == DEPARTURES[method]


@pytest.mark.parametrize("method", METHODS)
def test_the_size_of_images(method: str) -> None:
    paper = load_paper(method)
    assert (paper.height, paper.width) == SIZES[method]


@pytest.mark.parametrize("method", METHODS)
def test_networks_trained_averaged_and_kept(method: str) -> None:
    recipe = load_recipe(method, method=method)
    built = METHODS[method]
    torch.manual_seed(0)
    students = [ReIDNet("resnet18") for _ in range(students_of(recipe))]
    made = built(
        students, recipe.options, Clusterer(recipe.clustering, identities_per_batch=2, seed=0)
    )
    trained = [net for net in made.trained() if isinstance(net, ReIDNet)]
    all_of_them = [net for net in made.networks().values() if isinstance(net, ReIDNet)]
    kept = "trained" if any(made.embedder() is net for net in trained) else "average"
    assert (len(trained), len(all_of_them) - len(trained), kept) == NETWORKS[method]


def test_source_crops_are_daals_alone_and_fill_half_of_its_batch_of_32() -> None:
    wants = {name: load_recipe(name, method=name).options.source_wanted() for name in METHODS}
    assert {name for name, wanted in wants.items() if wanted} == {"daal"}
    assert 2 * load_recipe("daal", method="daal").batch.size == 32


def test_daals_rate_drops_at_its_epochs() -> None:
    """ "In the first 20 epoches", then "for every 60 epochs" of 260."""
    drops = load_recipe("daal", method="daal").optimizer.drops
    assert [round(260 * drop, 1) for drop in drops] == [20, 80, 140, 200]


def test_amls_beta_is_the_targets() -> None:
    beta = {task.target: of_task("aml", task)["options.beta"] for task in load_paper("aml").task}
    assert beta == {"market": 0.7, "duke": 0.7, "msmt17": 0.9}


def test_amls_second_phase_is_its_last_10_rounds() -> None:
    """The paper: once the first has converged."""
    recipe = flat(load_recipe("aml", method="aml"))
    assert round(recipe["options.weighted_share"] * recipe["schedule.rounds"]) == 10


PRETRAINING: dict[str, dict[str, object]] = {
    "source": {  # MMT's
        **BATCH_OF_MMT,
        "batch.ghost": 16,
        "augment.flip": 0.5,
        "augment.pad": 10,
        "augment.erase": 0.0,
        "optimizer.algorithm": "adam",
        "optimizer.lr": 3.5e-4,
        "optimizer.weight_decay": 5e-4,
        "optimizer.milestones": (40, 70),
        "optimizer.decay": 0.1,
        "optimizer.warmup_rounds": 10,  # public code
        "schedule.rounds": 80,
        "schedule.iterations": 100,  # public code
        "options.lambda_tri": 1.0,
        "options.margin": 0.0,  # public code: the softmax form
        "options.label_smoothing": 0.1,  # public code
        "options.parts": "none",
    },
    "source_aml": {
        "optimizer.algorithm": "adam",
        "optimizer.lr": 3e-4,
        "optimizer.milestones": (35, 55, 70),
        "optimizer.decay": 0.1,
        "optimizer.warmup_rounds": 10,  # bag of tricks
        "options.parts": "halves",  # the paper has masks
        "options.margin": 0.3,  # bag of tricks
        "options.label_smoothing": 0.1,  # bag of tricks
    },
}


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_holds_its_constants(name: str) -> None:
    recipe = flat(load_recipe(name, method="source"))
    assert {key: recipe[key] for key in PRETRAINING[name]} == PRETRAINING[name]


def test_what_papers_change_in_pretraining() -> None:
    """DAAL's Algorithm 1 pre-trains with the hard loss alone."""
    for method in METHODS:
        stage = load_paper(method).pretrain
        recipe = flat(load_recipe(stage.recipe, method="source", overrides=stage.set))
        plain = flat(load_recipe(stage.recipe, method="source"))
        differ = {key: recipe[key] for key in plain if recipe[key] != plain[key]}
        hard = {"options.lambda_tri": 0.0, "options.label_smoothing": 0.0}
        assert differ == (hard if method == "daal" else {})
        assert stage.recipe == ("source_aml" if method == "aml" else "source")
