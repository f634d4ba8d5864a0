"""Run folders of one round that nothing was trained in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from adapt.recipes import load_recipe
from adapt.runs.folder import Run
from adapt.runs.info import DataInfo, Origin, RunInfo
from adapt.runs.spec import RunSpec
from models.backbones.net import ReIDNet
from models.image import Preprocessing


def data(fingerprint: str, role: str = "target") -> DataInfo:
    return DataInfo.model_validate(
        {
            "root": "site",
            "role": role,
            "fingerprint": fingerprint,
            "crops": 4,
            "cameras": ["c1"],
            "dropped": {},
        }
    )


RECIPE = load_recipe(
    "mmt_small", method="mmt", overrides=("schedule.rounds=3", "optimizer.lr=1e-3")
)


def spec(**changes: object) -> RunSpec:
    """Of an adaptation, or with `kind="pretrain"` of a pre-training."""
    values: dict[str, object] = {
        "kind": "adapt",
        "recipe_name": "small",
        "seed": 1,
        "backbone": "mobilenet_v2",
        "preprocessing": Preprocessing(height=32, width=16),
    }
    if changes.get("kind") == "pretrain":
        recipe = load_recipe("source_small", method="source")
        values |= {"recipe": recipe, "sources": (Path("/sets/source"),)}
    else:
        inits, target = (Path("/runs/source"),), Path("/sites/lobby")
        values |= {"recipe": RECIPE, "inits": inits, "target": target}
    return RunSpec(**{**values, **changes})


def info(**changes: object) -> RunInfo:
    """changes: fields of the record or of its spec."""
    of_spec = {name: changes.pop(name) for name in RunSpec.model_fields if name in changes}
    values = {
        "spec": spec(**of_spec),
        "origin": Origin(inits=("abc",)),
        "data": (data("one"),),
        "device": "cpu",
        "threads": 1,
        "versions": {},
        "started": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return RunInfo(**{**values, **changes})


def row(number: int, **figures: float) -> dict[str, object]:
    """The figures of a round, as a run records them."""
    return {"round": number, "labels": "k-means", "warnings": [], **figures}


def finished(path: Path, **changes: object) -> Run:
    run = Run.create(path, info(**changes))
    figures = {"round": 1, "labels": "k-means", "clusters": 7.0, "loss": 0.5, "warnings": ["odd"]}
    run.record(figures, ReIDNet("mobilenet_v2"), [np.array([0, 1, -1])])
    run.finish(90.0)
    return run
