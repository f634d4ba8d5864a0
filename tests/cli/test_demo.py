"""The demo from end to end on sites of a few people: a real server, real files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the demo trains")

from adapt.errors import RunError
from adapt.recipes import load_recipe
from adapt.synthetic import SiteSpec
from cli.demo import SEARCHES, DemoPlan, run_demo
from models.image import Preprocessing

pytestmark = pytest.mark.usefixtures("thin")

SHORT = ["schedule.rounds=2", "schedule.iterations=4", "batch.identities=4", "batch.instances=2"]


def site(name: str, style: str) -> SiteSpec:
    return SiteSpec(
        name=name,
        style=style,
        train_identities=6,
        test_identities=5,
        cameras=3,
        images_per_camera=2,
        height=64,
        width=32,
    )


PLAN = DemoPlan(
    source=site("A", "summer"),
    site=site("B", "winter"),
    source_recipe=load_recipe("source_demo", method="source", overrides=SHORT),
    # 36 crops of networks that learned nothing have no dense places: k-means always finds clusters.
    site_recipe=load_recipe(
        "mmt_demo", method="mmt", overrides=[*SHORT, "clustering.algorithm=kmeans"]
    ),
    backbone="resnet18",
    preprocessing=Preprocessing(height=32, width=16),
)


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run_demo(PLAN, out, seed=1)

    summary = json.loads((out / "summary.json").read_text())
    for model in ("unadapted", "adapted"):
        assert all(0 <= summary[model][name] <= 1 for name in ("mAP", "cmc1"))
        assert (summary[model]["queries"], summary[model]["queries_without_match"]) == (15, 0)
    stages = summary["seconds"]
    assert set(stages) == {*("render", "pretrain", "adapt", "evaluate", "export", "serve", "total")}
    assert stages["total"] == pytest.approx(sum(stages.values()) / 2, abs=0.1)

    served = summary["served"]
    assert served["enrolled"] == 5 * 3  # of two crops a camera has of a test person, one is a query
    assert served["searches"] == min(SEARCHES, 15)
    assert 0.8 * 15 <= served["same_ranking_as_evaluate"] <= 15, "only near ties may swap"
    assert 0 <= served["first_answer_right"] <= 1
    assert served["searches_without_match"] == 0

    page = (out / "report.html").read_text()
    assert page.count('class="right"') > 0
    assert page.count('class="wrong"') > 0
    assert f"{served['same_ranking_as_evaluate']} of 15 gave the same 10 answers" in page
    for name in ("site-a", "site-b"):
        assert (out / f"{name}.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    assert page.count(' alt="site ') == 2
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page), "the page stands alone"
    assert f"{summary['adapted']['mAP']:.3f}" in capsys.readouterr().out


def test_only_a_demos_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not a demo"):
        run_demo(PLAN, tmp_path, seed=1)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
