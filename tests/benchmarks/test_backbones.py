"""Backbones side by side on tiny sets: from sites to the table."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

import torch

from adapt.recipes import load_recipe
from adapt.runs.folder import Run
from adapt.synthetic import SITE_A, SITE_B
from benchmarks.backbones import (
    MMT,
    Figures,
    cost,
    measured,
    minutes_in_turns,
    minutes_table,
    spread,
    table,
    untrained,
)
from benchmarks.methods.arms import Arm
from cli.demo import DemoPlan
from models.backbones.net import ReIDNet
from models.image import Preprocessing
from tests.support.tiny_runs import spec as adaptation
from tests.support.tiny_site import KMEANS, SHORT, SIZE

pytestmark = pytest.mark.usefixtures("quick")

SPEC = adaptation()
PEOPLE = {"train_identities": 3, "test_identities": 2, "cameras": 2, "images_per_camera": 2}
SMALL: dict[str, Any] = {**PEOPLE, "height": 32, "width": 16}
PLAN = DemoPlan(
    source=replace(SITE_A, **SMALL),
    site=replace(SITE_B, **SMALL),
    source_recipe=load_recipe("source_demo", method="source", overrides=SHORT),
    site_recipe=load_recipe("mmt_demo", method="mmt", overrides=SHORT),
    backbone="resnet18",
    preprocessing=SIZE,
)


def test_a_backbone_from_sites_to_figures(tmp_path: Path) -> None:
    found = measured(PLAN, tmp_path, 1, MMT, (*SHORT, *KMEANS))
    assert (found.backbone, found.seed, found.collapse) == ("resnet18", 1, "")
    assert found.adapted is not None
    assert 0 < found.unadapted <= 1
    assert 0 < found.adapted <= 1
    left = sorted(tmp_path.iterdir())
    (turn,) = minutes_in_turns([found.spec], 1, tmp_path)
    assert turn[0] > 0
    assert sorted(tmp_path.iterdir()) == left
    assert measured(PLAN, tmp_path, 1, MMT, (*SHORT, *KMEANS)) == found, "used again"


def test_minutes_need_no_training(tmp_path: Path) -> None:
    short = Arm("MMT", "mmt", "mmt", (*SHORT, *KMEANS))
    spec = untrained(PLAN, tmp_path, 1, short)
    assert spec.target is not None
    assert [Run.open(path).info.rounds for path in spec.inits] == [1, 1]
    turns = minutes_in_turns([spec], 2, tmp_path)
    assert len(turns) == 2
    lines = list(minutes_table(["resnet18"], SIZE, [[2.0], [4.0], [3.0]]))
    assert lines[2].endswith("| 3.0 (2.0 - 4.0) | 1.00 (1.00 - 1.00) |")


def test_source_networks_start_from_weights(tmp_path: Path) -> None:
    torch.save(ReIDNet("resnet18").state_dict(), tmp_path / "theirs.pth")
    plan = replace(PLAN, weights=str(tmp_path / "theirs.pth"))
    spec = untrained(plan, tmp_path, 1, Arm("MMT", "mmt", "mmt", (*SHORT, *KMEANS)))
    digest = hashlib.sha256((tmp_path / "theirs.pth").read_bytes()).hexdigest()
    assert [Run.open(path).info.origin.weights for path in spec.inits] == [digest, digest]


def test_the_table_has_a_row_for_each_backbone() -> None:
    rows = [
        Figures("osnet_x0_25", "a.pth", 1, 0.25, 0.5, SPEC, "", 400_000_000),
        Figures("osnet_x0_25", "a.pth", 2, 0.35, None, SPEC, "LABELS_INVALID", None),
        Figures("resnet18", "", 1, 0.5, 0.75, SPEC, "", None),
    ]
    turns = [[2.0, 3.0], [1.0, 4.0], [4.0, 4.0]]
    lines = list(table(rows, Preprocessing(height=256, width=128), turns))
    assert len(lines) == 4
    assert lines[2] == (
        "| `osnet_x0_25` | `a.pth` | 0.13 | 82 | 0.300 (0.250 - 0.350) "
        "| 0.500; seed 2: LABELS_INVALID | 2.0 (1.0 - 4.0) | 1.00 (1.00 - 1.00) | 400 |"
    )
    assert lines[3].startswith("| `resnet18` | random numbers | 11.18 |")
    assert lines[3].endswith("| 0.750 | 4.0 (3.0 - 4.0) | 1.50 (1.00 - 4.00) |  |")


def test_cost_grows_with_the_image() -> None:
    small, large = (cost("osnet_x0_5", Preprocessing(height=h, width=h // 2)) for h in (64, 128))
    assert small[0] == large[0] == pytest.approx(0.497, abs=1e-3)
    assert large[1] == pytest.approx(4 * small[1], rel=0.01)


def test_spread() -> None:
    assert (spread([], 1), spread([1.25], 1), spread([1.0, 2.0], 1)) == (
        "",
        "1.2",
        "1.5 (1.0 - 2.0)",
    )
