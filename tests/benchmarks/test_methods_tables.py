"""The arithmetic of the tables on figures by hand, and what the tables show."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.evaluation.metrics import RetrievalScores
from adapt.evaluation.protocols import ProtocolName
from adapt.recipes import load_recipe
from adapt.runs.folder import Run
from benchmarks.methods.arms import ABLATIONS, ARMS, PLAIN, SUPERVISED, chosen
from benchmarks.methods.clusters import LabelQuality
from benchmarks.methods.pictures import draw
from benchmarks.methods.results import (
    CENTERED,
    PROTOCOLS,
    Results,
    best_control,
    differences,
    share_closed,
    shares_closed,
    spread,
    write,
)
from benchmarks.methods.runs import MadeRun
from benchmarks.methods.tables import (
    print_closed,
    print_differences,
    print_labels,
    print_runs,
    print_scores,
)
from tests.support.tiny_runs import info


def scores(protocol: ProtocolName, *precision: float) -> RetrievalScores:
    """One query each; a precision of 1 is a first rank of 1."""
    rows = np.arange(len(precision))
    hits = np.where(np.array(precision) == 1, 1, 2)
    return RetrievalScores(protocol, 9, rows, np.array(precision), hits, 9)


def outcome(seconds: float, *, collapse: str = "", rounds: int = 12) -> MadeRun:
    found = info(
        data=(),
        state="failed" if collapse else "finished",
        reason=collapse,
        error="too few clusters" if collapse else "",
        rounds=rounds,
        seconds=seconds,
    )
    return MadeRun(Run(Path("run"), found), 1_500_000_000)


def by_hand() -> Results:
    """Two seeds, two queries of two people; NRMT collapses in the second."""
    found = Results({seed: np.array([1, 2]) for seed in (1, 2)})
    for protocol in PROTOCOLS:
        for model, each in {
            "unadapted": ((0.1, 0.3), (0.2, 0.4)),
            "unadapted" + CENTERED: ((0.2, 0.4), (0.3, 0.5)),  # .35 on average
            "AdaBN": ((0.5, 0.5), (0.1, 0.1)),  # .3, though best in seed 1
            PLAIN.name: ((0.4, 0.4), (0.4, 0.4)),
            PLAIN.name + CENTERED: ((0.9, 0.9), (0.9, 0.9)),
            "MMT": ((0.5, 1.0), (0.5, 0.9)),
            SUPERVISED.name: ((1.0, 1.0), (0.8, 1.0)),
        }.items():
            for seed, precision in enumerate(each, start=1):
                found.add(model, protocol, seed, scores(protocol, *precision))
        found.add("NRMT", protocol, 1, scores(protocol, 0.25, 0.25))
    for name in (PLAIN.name, "MMT", SUPERVISED.name):
        found.outcomes[name] = {1: outcome(60), 2: outcome(90)}
    stopped = outcome(30, collapse="CLUSTERS_COLLAPSED", rounds=3)
    found.outcomes["NRMT"] = {1: outcome(60), 2: stopped}
    return found


def test_spread_is_the_standard_deviation_of_a_sample() -> None:
    assert spread([0.2, 0.4, 0.6]) == pytest.approx(0.2)
    assert math.isnan(spread([0.2]))


def test_the_best_control_is_training_free_and_best_on_average() -> None:
    found = by_hand()
    assert found.controls == ["unadapted", "unadapted" + CENTERED, "AdaBN"]
    assert found.methods == ["MMT", "NRMT"]
    assert [best_control(found, protocol) for protocol in PROTOCOLS] == [
        "unadapted, camera-centered"
    ] * 2


def test_differences_are_against_the_best_control_and_plain_clustering() -> None:
    rows = {(d.model, d.rival): d for d in differences(by_hand()) if d.protocol == "market"}
    control, plain = "unadapted, camera-centered", "plain clustering"
    assert set(rows) == {(m, r) for m in ("MMT", "NRMT") for r in (control, plain)}
    # Seed 1: .75 - .30, people +.3 and +.6; seed 2: .70 - .40, people +.2 and +.4.
    mmt = rows["MMT", control]
    assert mmt.mean == pytest.approx((0.45 + 0.30) / 2)
    assert mmt.intervals[1].difference == pytest.approx(0.45)
    assert (mmt.intervals[1].low, mmt.intervals[1].high) == pytest.approx((0.3, 0.6))
    assert (mmt.intervals[2].low, mmt.intervals[2].high) == pytest.approx((0.2, 0.4))
    assert list(rows["NRMT", plain].intervals) == [1], "only seeds that finished"
    assert rows["NRMT", plain].mean == pytest.approx(-0.15)


def test_share_of_the_way_to_the_ceiling() -> None:
    assert share_closed(0.5, 0.2, 0.8) == pytest.approx(0.5)
    assert share_closed(0.1, 0.2, 0.8) == pytest.approx(-1 / 6), "worse than unadapted"
    assert math.isnan(share_closed(0.5, 0.8, 0.8)), "no way to go"
    found = by_hand()
    # Split 1: (.75 - .2) / (1 - .2); split 2: (.7 - .3) / (.9 - .3).
    assert shares_closed(found, "MMT", "market") == pytest.approx({1: 0.6875, 2: 2 / 3})
    del found.scores[SUPERVISED.name, "market"][2]
    assert list(shares_closed(found, "MMT", "market")) == [1]


def test_tables_show_means_spreads_and_collapses(capsys: pytest.CaptureFixture[str]) -> None:
    found = by_hand()
    first = LabelQuality(9, 8, 0.25, 7, 0.875, 0.5)
    second = LabelQuality(8, 8, 0.0, 4, 1.0, 1.0)
    found.labels = {"NRMT": {1: (first, second), 2: (second,)}}
    for show in (print_scores, print_runs, print_differences, print_closed, print_labels):
        show(found)
    out = capsys.readouterr().out
    for line in (
        "| MMT | market | 0.725 | 0.035 | 0.250 | 0.750, 0.700 |",
        "| NRMT | market | 0.250 | - | 0.000 | 0.250, stopped in round 4 (CLUSTERS_COLLAPSED) |",
        "| NRMT | 1.0, 0.5 | 1.50, 1.50 | finished, stopped in round 4 (CLUSTERS_COLLAPSED) |",
        "NRMT, seed 2, stopped in round 4 (CLUSTERS_COLLAPSED): too few clusters",
        "| MMT | unadapted, camera-centered | market | +0.375 "
        "| +0.450 [+0.300, +0.600]; +0.300 [+0.200, +0.400] |",
        "| MMT | market | 0.677 | 1: 0.688, 2: 0.667 |",
        "| NRMT | 9 of 8 / 8 of 8, 8 of 8 | 25 % / 0 %, 0 % | 7 / 4, 4 | 0.88 / 1.00, 1.00 "
        "| 0.50 / 1.00, 1.00 |",
    ):
        assert line in out


def test_figures_are_kept_and_drawn(tmp_path: Path) -> None:
    write(by_hand(), tmp_path / "results.json")
    kept = json.loads((tmp_path / "results.json").read_text())
    assert len(kept["scores"]) == 2 * (7 * 2 + 1)
    assert {row["ended"] for row in kept["runs"] if row["model"] == "NRMT"} == {
        "finished",
        "stopped in round 4 (CLUSTERS_COLLAPSED)",
    }
    assert [row["model"] for row in kept["controls"]] == by_hand().controls
    picture = tmp_path / "methods.png"
    draw(picture, kept["scores"], {row["model"] for row in kept["controls"]})
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_every_arm_has_a_recipe_of_as_many_steps_and_a_folder_of_its_own() -> None:
    variants = [arm for rows in ABLATIONS.values() for arm in rows]
    assert set(ABLATIONS) == set(ARMS) - {"plain"}
    steps = {arm.recipe()[0].schedule for arm in (*ARMS.values(), *variants, SUPERVISED)}
    assert len(steps) == 1
    folders = [arm.folder for arm in (*ARMS.values(), SUPERVISED)]
    folders += [arm.folder for arm in variants if arm.overrides]
    assert len(folders) == len(set(folders))
    for method, rows in ABLATIONS.items():
        recipes = [arm.recipe()[0] for arm in rows]
        assert all(recipes.count(recipe) == 1 for recipe in recipes), "every switch does something"
        whole = load_recipe(f"{method}_small", method=method)
        (full,) = (arm for arm in rows if arm.recipe()[0] == whole)
        assert full.folder == method, "the run of the method itself"
    assert chosen(ARMS, ["mmt", "plain"]) == [PLAIN, ARMS["mmt"]]
