"""Run folders of one round that nothing was trained in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from adapt.runs.folder import Run
from adapt.runs.info import DataInfo, Inputs, RunInfo
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


def info(**changes: object) -> RunInfo:
    values = {
        "kind": "adapt",
        "method": "mmt",
        "backbone": "mobilenet_v2",
        "preprocessing": Preprocessing(height=32, width=16),
        "recipe": {"method": "mmt", "schedule": {"rounds": 3}, "optimizer": {"lr": 1e-3}},
        "recipe_name": "small",
        "seed": 1,
        "init": ("abc",),
        "data": (data("one"),),
        "device": "cpu",
        "versions": {},
        "inputs": Inputs(),
        "started": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return RunInfo(**{**values, **changes})


def finished(path: Path, **changes: object) -> Run:
    run = Run.create(path, info(**changes))
    figures = {"round": 1, "labels": "k-means", "clusters": 7.0, "loss": 0.5, "warnings": ["odd"]}
    run.record(figures, ReIDNet("mobilenet_v2"), [np.array([0, 1, -1])])
    run.finish(90.0)
    return run
