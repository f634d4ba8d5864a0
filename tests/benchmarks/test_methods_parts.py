"""The parts on tiny sets, from folders to tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.catalog.folders import read_market, read_site
from adapt.recipes import load_recipe
from adapt.synthetic import SITE_A, SITE_B
from benchmarks.methods.arms import ARMS
from benchmarks.methods.ceiling import halves
from benchmarks.methods.compare import compare
from benchmarks.methods.synthetic import rendered, synthetic_site
from cli.demo import DemoPlan
from tests.support.tiny_sets import write_market
from tests.support.tiny_site import KMEANS, SHORT, SIZE, tiny_site

pytestmark = pytest.mark.usefixtures("quick")

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


def test_controls_and_a_method_from_folders_to_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tiny_site(tmp_path, *KMEANS)
    found = compare(tmp_path / "tiny.json", [1], lambda seed: site, [ARMS["hli"]])
    controls = (
        "unadapted",
        "AdaBN",
        "AdaBN of each camera",
        "ensemble",
        "ensemble, AdaBN of each camera",
    )
    named = [name + suffix for name in controls for suffix in ("", ", camera-centered")]
    assert found.controls == named
    assert found.methods == ["HLI"]
    assert all(set(scores) == {1} for scores in found.scores.values())
    for (_, protocol), scores in found.scores.items():
        assert scores[1].protocol == protocol
        assert scores[1].queries == len(site.judged.query)
    kept = json.loads((tmp_path / "tiny.json").read_text())
    assert [(row["model"], row["ended"]) for row in kept["runs"]] == [("HLI", "finished")]
    assert {row["minus"] for row in kept["differences"]} <= set(named)
    assert "| HLI | market |" in capsys.readouterr().out


def test_people_are_halved_into_folders_that_share_none(tmp_path: Path) -> None:
    root = write_market(tmp_path / "data", persons=7)
    learned, left_out = halves(root, tmp_path / "out", 1)
    whole, a, b = (read_market(each, ("train",)) for each in (root, learned, left_out))
    people = [set(crops.persons.tolist()) for crops in (a, b)]
    assert not people[0] & people[1]
    assert [len(p) for p in people] == [4, 3]
    assert len(a) + len(b) == len(whole)
    assert read_site(learned).cameras == whole.cameras
    assert halves(root, tmp_path / "out", 1) == (learned, left_out), "kept"
    others = halves(root, tmp_path / "other", 2)[0]
    assert set(read_market(others, ("train",)).persons.tolist()) != people[0]
    with pytest.raises(SystemExit, match="other people's crops"):
        halves(root, tmp_path / "out", 2)


def test_a_synthetic_site_has_its_sources_and_is_used_again(tmp_path: Path) -> None:
    site = synthetic_site(PLAN, tmp_path, 3, ())
    assert site.judged.query.crops.root == site.target
    assert {run.info.spec.seed for run in site.inits} == {1003, 2003}, "as in the demo"
    assert synthetic_site(PLAN, tmp_path, 3, ()).inits[1].path == site.inits[1].path
    spec = json.loads((site.target / "synthetic.json").read_text())["spec"]
    assert spec["seed"] == SITE_B.seed + 3000
    with pytest.raises(SystemExit, match="another site"):
        rendered(PLAN.site, site.target)
