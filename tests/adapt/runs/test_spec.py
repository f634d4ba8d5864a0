"""A spec checks itself, and its JSON is read back as the same spec."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="recipes know torch's methods")

from pydantic import ValidationError

from adapt.errors import ConfigError
from adapt.methods import METHODS
from adapt.methods.mmt import MMTOptions
from adapt.methods.source import SourceOptions
from adapt.recipes import load_recipe
from adapt.runs.spec import RunSpec
from tests.support.specs import adapt_spec, pretrain_spec
from tests.support.tiny_runs import spec

SITE, INIT = Path("site"), Path("init")


@pytest.mark.parametrize("method", METHODS)
def test_json_both_ways_for_every_method(method: str) -> None:
    recipe = load_recipe(f"{method}_small", method=method, overrides=["optimizer.lr=0.1"])
    asked = adapt_spec(SITE, [INIT], recipe, camera_pattern="c[0-9]", hold_back=0.2)
    again = RunSpec.model_validate_json(asked.model_dump_json())
    assert again == asked
    assert type(again.recipe.options) is METHODS[method].Options


def test_json_of_a_pretraining() -> None:
    asked = pretrain_spec(Path("set"), weights="torchvision", validation=Path("set"))
    assert RunSpec.model_validate_json(asked.model_dump_json()) == asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "the seed is -1: give 0 to 4294967295"),
        ({"seed": 2**32}, "the seed is 4294967296: give 0 to 4294967295"),
        ({"backbone": "gone"}, "no backbone 'gone'; choose one of: .*resnet50"),
        ({"hold_back": 1.0}, r"a share to hold back is in \[0, 1\)"),
        ({"hold_back": float("nan")}, r"a share to hold back is in \[0, 1\)"),
        ({"target": None}, "needs target"),
        ({"inits": ()}, "needs inits"),
        ({"weights": "torchvision"}, "takes no weights"),
        ({"recipe": load_recipe("source_small", method="source")}, "method source cannot adapt"),
        ({"kind": "pretrain", "sources": ()}, "needs sources"),
        ({"kind": "pretrain", "backbone": None}, "needs backbone"),
        ({"kind": "pretrain", "preprocessing": None}, "needs preprocessing"),
        ({"kind": "pretrain", "target": SITE}, "takes no target"),
        ({"kind": "pretrain", "inits": (INIT,)}, "takes no inits"),
        ({"kind": "pretrain", "hold_back": 0.1}, "takes no hold_back"),
        ({"kind": "pretrain", "camera_pattern": "c"}, "takes no camera_pattern"),
        ({"kind": "pretrain", "recipe": load_recipe("mmt", method="mmt")}, "mmt cannot pretrain"),
    ],
)
def test_fields_that_contradict_each_other(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(**changes)


def test_what_cannot_be_read_is_refused() -> None:
    written = json.loads(spec().model_dump_json())
    with pytest.raises(ConfigError, match="method is missing; use one of: source, "):
        RunSpec.model_validate(written | {"recipe": {}})
    with pytest.raises(ConfigError, match="method is not text; use one of: source, "):
        RunSpec.model_validate(written | {"recipe": {"method": ["mmt"]}})
    with pytest.raises(ConfigError, match="no method 'gone'"):
        RunSpec.model_validate(written | {"recipe": {"method": "gone"}})
    with pytest.raises(ConfigError, match=r"options\.gone: unknown"):
        RunSpec.model_validate(written | {"recipe": {"method": "mmt", "options": {"gone": 1}}})
    with pytest.raises(ValidationError, match="a recipe is a table of sections"):
        RunSpec.model_validate(written | {"recipe": "mmt"})
    with pytest.raises(ValidationError, match="surprise"):
        RunSpec.model_validate(written | {"surprise": 1})


def test_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("mmt_small", method="mmt")
    asked = adapt_spec(SITE, [INIT], recipe, sources=(Path("a"),), validation=Path("b"))
    found = asked.absolute()
    assert (found.target, found.inits) == (tmp_path / "site", (tmp_path / "init",))
    assert (found.sources, found.validation) == ((tmp_path / "a",), tmp_path / "b")
    assert found.absolute() == found
    assert spec(validation=None).absolute().validation is None


def test_a_changed_spec_is_checked() -> None:
    asked = spec()
    assert asked.changed(seed=2) == spec(seed=2)
    assert asked.changed() == asked
    with pytest.raises(ConfigError, match="the seed is -1"):
        asked.changed(seed=-1)
    with pytest.raises(ValidationError, match="surprise"):
        asked.changed(surprise=1)


def test_absolute_files_of_a_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes = ["options.parts=masks", "options.parts_model=models/parser.onnx"]
    recipe = load_recipe("source_small", method="source", overrides=changes)
    found = pretrain_spec(Path("set"), recipe=recipe, weights="trunk.pth").absolute()
    assert found.weights == str(tmp_path / "trunk.pth")
    assert isinstance(found.recipe.options, SourceOptions)
    assert found.recipe.options.parts_model == str(tmp_path / "models" / "parser.onnx")
    assert found.absolute() == found
    plain = pretrain_spec(tmp_path, weights="torchvision")
    assert plain.absolute() == plain, "neither torchvision nor an empty parts_model names a file"
    assert pretrain_spec(tmp_path).absolute().weights is None


def test_the_hash_is_of_the_recipe_alone() -> None:
    one = spec()
    assert one.recipe_hash() == spec(seed=2, target=Path("elsewhere")).recipe_hash()
    assert one.recipe_hash() == RunSpec.model_validate_json(one.model_dump_json()).recipe_hash()
    other = one.recipe.model_copy(update={"options": MMTOptions(ema=0.5)})
    assert spec(recipe=other).recipe_hash() != one.recipe_hash()
