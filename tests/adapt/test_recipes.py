"""Recipes: every one that comes along is whole, and overrides say what they cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import ConfigError
from adapt.methods.aml import AMLOptions
from adapt.methods.daal import DAALOptions
from adapt.methods.mmt import MMTOptions
from adapt.methods.source import SourceOptions
from adapt.recipes import describe_recipes, load_recipe, recipe_label, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_names_its_origin(name: str) -> None:
    recipe = load_recipe(name, method=name.split("_")[0])
    assert recipe.source
    assert (name, recipe.source) in describe_recipes()


def test_papers_constants() -> None:
    """MMT, section 4.2 and card."""
    mmt = load_recipe("mmt", method="mmt")
    assert isinstance(mmt.options, MMTOptions)
    assert (mmt.options.lambda_id, mmt.options.lambda_tri, mmt.options.ema) == (0.5, 0.8, 0.999)
    assert (mmt.optimizer.lr, mmt.optimizer.weight_decay) == (3.5e-4, 5e-4)
    assert (mmt.schedule.rounds, mmt.batch.identities, mmt.batch.instances) == (40, 16, 4)
    source = load_recipe("source", method="source")
    assert (source.schedule.rounds, source.optimizer.milestones) == (80, (40, 70))
    assert source.augment.erase == 0.0
    assert mmt.batch.ghost == source.batch.ghost == 16


def test_papers_constants_of_aml() -> None:
    """Section 4.2."""
    aml = load_recipe("aml", method="aml")
    o = aml.options
    assert isinstance(o, AMLOptions)
    assert (o.merge_nearest, o.merge_cross_camera, o.merge_threshold) == (3, 15, 0.5)
    assert (o.beta, o.lambda_id, o.labels) == (0.7, 0.01, "asymmetric")
    assert (aml.optimizer.lr, aml.optimizer.milestones, aml.optimizer.decay) == (3e-5, (10,), 0.1)
    assert aml.optimizer.warmup_rounds == 0
    c = aml.clustering
    assert (c.algorithm, c.radius, c.rho, c.min_samples) == ("dbscan", "rho", 1.6e-3, 4)
    source = load_recipe("source_aml", method="source")
    assert (source.optimizer.lr, source.optimizer.milestones) == (3e-4, (35, 55, 70))
    assert source.optimizer.warmup_rounds == 10
    assert isinstance(source.options, SourceOptions)
    assert source.options.parts == "halves"


def test_papers_constants_of_daal() -> None:
    """Implementation Details, equation 4, figure 4 and card."""
    daal = load_recipe("daal", method="daal")
    assert isinstance(daal.options, DAALOptions)
    assert (daal.options.epsilon, daal.options.labels) == (0.9, "soft")
    assert (daal.options.attention, daal.options.domain_branch) == ("residual", True)
    optimizer = daal.optimizer
    assert (optimizer.algorithm, optimizer.momentum, optimizer.lr) == ("sgd", 0.9, 1.5e-4)
    assert optimizer.lr * optimizer.new_layers == pytest.approx(3e-5)
    assert [round(260 * drop) for drop in optimizer.drops] == [20, 80, 140, 200]
    assert (daal.schedule.rounds, daal.schedule.passes, 2 * daal.batch.size) == (5, 260, 32)
    assert (daal.clustering.radius, daal.clustering.rho) == ("rho", 1.6e-3)
    assert (daal.clustering.min_samples, daal.clustering.k1, daal.clustering.k2) == (4, 20, 6)


def test_overrides() -> None:
    recipe = load_recipe(
        "mmt",
        method="mmt",
        overrides=["optimizer.lr=1e-4", "clustering.algorithm=dbscan", "options.lambda_id=0.3"],
    )
    assert recipe.optimizer.lr == 1e-4
    assert recipe.clustering.algorithm == "dbscan"
    assert isinstance(recipe.options, MMTOptions)
    assert recipe.options.lambda_id == 0.3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "form section.name=value"),
        ("optimizer.speed=3", "optimizer.speed: Extra inputs"),
        ("optimizer.lr=-1", "optimizer.lr: Input should be greater than 0"),
        ("method.lr=1", "method is a value"),
        ("clustering.radius=0", "radius.*greater than 0"),
        ("clustering.radius=1.0", "radius.*less than 1"),
        ("clustering.radius=nan", "radius"),
        ("options.lambda_id=2", "lambda_id: Input should be less than or equal to 1"),
        ("batch.ghost=24", "batch: .*ghost = 24 cannot divide batches of 64 images"),
        ("batch.ghost=1", "batch: .*ghost = 1 cannot divide .*from 2 on, or 0"),
        ("batch.identities=10", "batch: .*ghost = 16 cannot divide batches of 40"),
    ],
)
def test_wrong_overrides_name_the_field(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("mmt", method="mmt", overrides=[override])


def test_wrong_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one of: .*\bmmt\b"):
        load_recipe("mtm", method="mmt")
    with pytest.raises(ConfigError, match="for method 'source', not for 'mmt'"):
        load_recipe("source", method="mmt")
    with pytest.raises(ConfigError, match="No such file"):
        load_recipe(str(tmp_path / "absent.toml"), method="mmt")
    (tmp_path / "bad.toml").write_text("method = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(str(tmp_path / "bad.toml"), method="mmt")


@pytest.mark.parametrize(
    ("given", "overrides", "label"),
    [
        ("mmt", [], "mmt"),
        (
            "mmt",
            ["optimizer.lr=1e-4", "batch.identities=8"],
            "mmt (optimizer.lr=1e-4, batch.identities=8)",
        ),
        ("/home/me/Site 3.toml", [], "Site 3"),
        ("recipes/mmt.toml", ["batch.identities=8"], "mmt (own file) (batch.identities=8)"),
    ],
)
def test_labels_tell_what_was_run(given: str, overrides: list[str], label: str) -> None:
    assert recipe_label(given, overrides) == label
