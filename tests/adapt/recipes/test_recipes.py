"""Recipes: every one that comes along is whole, and overrides say what they cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import ConfigError
from adapt.methods.mmt import MMTOptions
from adapt.recipes import describe_recipes, load_recipe, recipe_label, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_names_its_origin(name: str) -> None:
    recipe = load_recipe(name, method=name.split("_")[0])
    assert recipe.source
    assert (name, recipe.source) in describe_recipes()


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
        (
            "optimizer.speed=3",
            r"optimizer\.speed: unknown; \[optimizer\] has .*, lr, .*drops",
        ),
        (
            "options.lamda_id=0.3",
            r"mmt: options\.lamda_id: unknown, did you mean lambda_id\? \[options\] has lambda_id,",
        ),
        ("option.ema=0", r"mmt: option: unknown, did you mean options\? there are method,"),
        ("options.keep=3", "mmt: options.keep: Input should be 1 or 2"),
        ("options.networks=1 2", "mmt: options.networks: Input"),
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
