"""Specs of tiny runs, and where they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from adapt.config import Recipe
from adapt.recipes import load_recipe
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from models.image import Preprocessing

CPU = torch.device("cpu")
SIZE = Preprocessing(height=32, width=16)
SHORT = (
    "schedule.rounds=1",
    "schedule.iterations=1",
    "batch.identities=2",
    "batch.instances=2",
    "augment.pad=1",
)


def on_cpu() -> RunContext:
    """A context of its own: a request to stop is of one run."""
    return RunContext(CPU)


def pretrain_spec(source: Path, seed: int = 1, **changes: object) -> RunSpec:
    """One step on labelled crops, unless `changes` say otherwise."""
    values: dict[str, object] = {
        "recipe": load_recipe("source_small", method="source", overrides=SHORT),
        "recipe_name": "test",
        "backbone": "resnet18",
        "preprocessing": SIZE,
        "sources": (source,),
        **changes,
    }
    return RunSpec(kind="pretrain", seed=seed, **values)


def adapt_spec(
    target: Path, inits: Sequence[Path], recipe: Recipe, seed: int = 1, **changes: object
) -> RunSpec:
    """An adaptation to a site."""
    values: dict[str, object] = {"recipe_name": "test", **changes}
    return RunSpec(
        kind="adapt",
        recipe=recipe,
        seed=seed,
        inits=tuple(inits),
        target=target,
        **values,
    )


def import_spec(weights: Path | str, **changes: object) -> RunSpec:
    """A network that others trained."""
    values: dict[str, object] = {
        "recipe": load_recipe("source", method="source"),
        "recipe_name": "import",
        "seed": 0,
        "backbone": "resnet18_ibn_a",
        "preprocessing": SIZE,
        "weights": str(weights),
        **changes,
    }
    return RunSpec(kind="import", **values)
