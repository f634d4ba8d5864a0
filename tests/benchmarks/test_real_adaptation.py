"""Runs that are there already are used again only if they are the ones asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.folders import read_market
from adapt.data.sources import merge_sources
from adapt.recipes import load_recipe
from adapt.runs import Run
from adapt.training import Machine, pretrain
from benchmarks.real_adaptation import BACKBONE, CPU, SIZE, earlier
from tests.support.tiny_sets import write_market

SHORT = ["schedule.rounds=1", "schedule.iterations=1", "batch.identities=2", "batch.instances=2"]
RECIPE = load_recipe("source_small", method="source", overrides=SHORT)


def test_an_earlier_run_must_be_the_same_in_all_that_decides_it(tmp_path: Path) -> None:
    sets = {name: write_market(tmp_path / name, persons=3, seed=n) for n, name in enumerate("ab")}
    crops = {name: merge_sources([read_market(root, ("train",))]) for name, root in sets.items()}
    out = tmp_path / "run"
    pretrain(
        [sets["a"]],
        splits=("train",),
        backbone=BACKBONE,
        weights=None,
        preprocessing=SIZE,
        recipe=RECIPE,
        recipe_name="test",
        out=out,
        machine=Machine(CPU, 1),
    )
    assert earlier(out, RECIPE, 1, crops["a"], weights=None).path == out
    other = load_recipe("source_small", method="source")
    for changes, message in (
        ({"crops": crops["b"]}, "another data"),
        ({"seed": 2}, "another seed"),
        ({"recipe": other}, "another recipe"),
        ({"weights": "imagenet"}, "another weights"),
        ({"init": ("0" * 64,)}, "another init"),
    ):
        asked = {"recipe": RECIPE, "seed": 1, "crops": crops["a"], "weights": None, **changes}
        with pytest.raises(SystemExit, match=message):
            earlier(out, **asked)  # type: ignore[arg-type]
    run = Run.open(out)
    for name, value in (("backbone", "resnet18"), ("state", "running")):
        content = run.info.model_copy(update={name: value}).model_dump_json()
        (out / "run.json").write_text(content)
        with pytest.raises(SystemExit, match=f"another {name}"):
            earlier(out, RECIPE, 1, crops["a"], weights=None)
