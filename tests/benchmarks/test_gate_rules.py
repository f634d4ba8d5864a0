"""The arithmetic of the gate's experiment, by hand, and that it votes as the gate does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.evaluation.gate import DEFAULT_RULE, Rule, compare
from adapt.evaluation.proxies.measure import PROXIES, ModelFigures, measure
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings
from benchmarks.gate.measuring import ModelResult, SiteResult
from benchmarks.gate.networks import NetworkStage
from benchmarks.gate.rules import (
    WITHOUT_INTERVAL,
    Candidate,
    Case,
    Judged,
    Votes,
    candidates,
    choose,
    correlation,
    judge,
    leave_one_out,
    mean_over_kinds,
    pairs_asked,
    promotions,
    rejections,
    try_rules,
    votes_of,
)
from tests.support.numbered_sites import people


def votes(**of: list[list[int]]) -> Votes:
    return Votes(
        {name: np.array(rows, np.int8) for name, rows in of.items()},
        np.zeros(3, bool),
    )


BETTER_AFTER = [[0, 1, 1], [-1, 0, 1], [-1, -1, 0]]
ALL_UNCLEAR = [[0] * 3] * 3


def test_promotions_by_hand() -> None:
    found = votes(silhouette=BETTER_AFTER, spread=ALL_UNCLEAR)
    assert promotions(found, ["silhouette"], 1).tolist() == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert not promotions(found, ["silhouette", "spread"], 2).any()
    assert not promotions(found, ["clustered"], 1).any(), "no voter on this site"
    both = votes(silhouette=BETTER_AFTER, spread=BETTER_AFTER)
    assert promotions(both, ["silhouette", "spread"], 2).sum() == 3


def test_collapsed_models_by_hand() -> None:
    found = votes(silhouette=BETTER_AFTER)
    collapsed = Votes(found.of, np.array([False, False, True]))
    assert promotions(collapsed, ["silhouette"], 1).tolist() == [
        [False, True, False],
        [False, False, False],
        [True, True, False],
    ]


def test_rejections_by_hand() -> None:
    found = votes(silhouette=BETTER_AFTER, spread=BETTER_AFTER)
    assert rejections(found, ["silhouette", "spread"], 2).tolist() == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
    ]
    collapsed = Votes(found.of, np.array([False, False, True]))
    assert rejections(collapsed, ["silhouette"], 1).tolist() == [
        [False, False, True],
        [True, False, True],
        [False, False, False],
    ]


def test_pairs_asked_by_hand() -> None:
    stages: tuple[NetworkStage, ...] = ("source", "round", "last", "last")
    sound = np.zeros(4, bool)
    assert np.argwhere(pairs_asked(stages, sound, "first")).tolist() == [[0, 2], [0, 3]]
    assert np.argwhere(pairs_asked(stages, sound, "next")).tolist() == [[2, 3], [3, 2]]
    replacing = [[0, 2], [0, 3], [2, 3], [3, 2]]
    assert np.argwhere(pairs_asked(stages, sound, "replacing")).tolist() == replacing
    assert pairs_asked(stages, sound, "all").sum() == 12
    # what has collapsed is in use nowhere, but may be proposed
    collapsed = np.array([False, False, True, False])
    left = [pair for pair in replacing if pair[0] != 2]
    assert np.argwhere(pairs_asked(stages, collapsed, "replacing")).tolist() == left
    assert np.argwhere(pairs_asked(stages, collapsed, "next")).tolist() == [[3, 2]]
    assert pairs_asked(stages, collapsed, "all").sum() == 12


def everything(models: int) -> NDArray[np.bool_]:
    return np.ones((models, models), bool)


def test_precision_and_recall_by_hand() -> None:
    true = np.array([0.5, 0.505, 0.6, 0.3])
    promoted = np.zeros((4, 4), bool)
    promoted[0, 2] = promoted[3, 0] = True  # right
    promoted[0, 1] = True  # better, by too little
    promoted[2, 3] = True  # harmful
    # better by more than 0.01: 0-2, 1-2, 3-0, 3-1, 3-2
    found = judge(promoted, true, 0.01, everything(4))
    assert found == Judged(promoted=4, better=5, right=2, harmful=1)
    assert (found.precision, found.recall) == (0.5, 0.4)
    assert found.f_measure == pytest.approx(1.25 * 0.5 * 0.4 / (0.25 * 0.5 + 0.4))
    nothing = judge(np.zeros((4, 4), bool), true, 0.01, everything(4))
    assert math.isnan(nothing.precision)
    assert (nothing.recall, nothing.f_measure) == (0, 0)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), models=st.integers(2, 7))
def test_judge_equals_the_reference(seed: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    promoted, true = rng.random((models, models)) < 0.4, rng.random(models)
    wanted = rng.random((models, models)) < 0.7
    counts = [0, 0, 0, 0]
    for old in range(models):
        for new in range(models):
            better, worse = true[new] > true[old] + 0.1, true[new] < true[old] - 0.1
            for i, yes in enumerate(
                (
                    promoted[old, new],
                    better,
                    promoted[old, new] and better,
                    promoted[old, new] and worse,
                )
            ):
                counts[i] += bool(yes and wanted[old, new])
    assert judge(promoted, true, 0.1, wanted) == Judged(*counts)


def test_every_rule_is_tried_once() -> None:
    rules = list(candidates(["a", "b", "c", "d", "e", "f"]))
    assert len(rules) == len(set(rules)) == 15 * 1 + 20 * 2 + 15 * 3 + 6 * 4
    assert min(rule.min_votes for rule in rules) == 2
    assert max(len(rule.proxies) for rule in rules) == 5


def test_a_rule_has_one_proxy_of_the_clusters() -> None:
    rules = list(candidates(["silhouette", "stability", "spread"]))
    assert rules == [Candidate(("silhouette", "spread"), 2), Candidate(("stability", "spread"), 2)]


def case(name: str, kind: str, true: list[float], **of: list[list[int]]) -> Case:
    stages: tuple[NetworkStage, ...] = ("source", "round", "last")
    return Case(name, kind, votes(**of), np.array(true), stages)


WORSE_AFTER = (-np.array(BETTER_AFTER)).tolist()


RIGHT = Candidate(("silhouette", "spread"), 2)
WRONG = Candidate(("mutual_neighbors", "camera_bias"), 2)


def two_against_two(name: str, kind: str, true: list[float]) -> Case:
    return case(
        name,
        kind,
        true,
        silhouette=BETTER_AFTER,
        spread=BETTER_AFTER,
        mutual_neighbors=WORSE_AFTER,
        camera_bias=WORSE_AFTER,
    )


def test_choice_and_leaving_a_kind_out() -> None:
    good = [two_against_two(n, n, [0.1, 0.2, 0.3]) for n in "abc"]
    odd = [two_against_two(n, "odd", [0.3, 0.2, 0.1]) for n in "defgh"]
    cases = [*good, *odd]
    tried = try_rules(cases, 0.01, "all")
    assert tried[RIGHT][0] == Judged(promoted=3, better=3, right=3, harmful=0)
    assert tried[RIGHT][3] == Judged(promoted=3, better=3, right=0, harmful=3)
    # five sites of one kind have one say against three kinds of one site each
    assert choose(cases, tried) == RIGHT
    assert leave_one_out(cases, tried) == dict.fromkeys(("a", "b", "c", "odd"), RIGHT)
    assert choose(cases[2:], try_rules(cases[2:], 0.01, "all"), without="c") == WRONG
    alone = try_rules(odd, 0.01, "all")
    assert leave_one_out(odd, alone) == {}, "nobody is left to choose"


def test_a_site_whose_models_are_alike_has_no_say() -> None:
    cases = [two_against_two("a", "a", [0.1, 0.2, 0.3])]
    cases += [two_against_two(n, n, [0.505, 0.5, 0.5]) for n in "bc"]
    assert choose(cases, try_rules(cases, 0.01, "all")) == RIGHT
    assert choose(cases[1:], try_rules(cases[1:], 0.01, "all")) is None


def test_the_least_harmful_of_equally_good_rules() -> None:
    """Ten models, each better than the one before; one rule promotes one pair that is worse."""
    rising = np.sign(np.arange(10) - np.arange(10)[:, None])
    slip = rising.copy()
    slip[9, 0], slip[0, 9] = 1, -1
    shy = rising.copy()
    shy[0, 8:] = shy[8:, 0] = 0
    of = {"silhouette": slip, "spread": slip, "mutual_neighbors": shy, "camera_bias": shy}
    site = Case(
        "a",
        "a",
        Votes({n: rows.astype(np.int8) for n, rows in of.items()}, np.zeros(10, bool)),
        np.arange(10) / 10,
        ("round",) * 10,
    )
    tried = try_rules([site], 0.01, "all")
    bold, careful = (tried[rule][0] for rule in (RIGHT, WRONG))
    assert bold == Judged(promoted=45, better=45, right=44, harmful=1)
    assert careful == Judged(promoted=43, better=45, right=43, harmful=0)
    assert (bold.harm, careful.harm) == (1 / 45, 0)
    assert abs(bold.f_measure - careful.f_measure) < 0.02
    assert choose([site], tried) == WRONG
    # of the equally harmless ones it has the fewest proxies
    harmless = [r for r in tried if tried[r][0].harm == 0 and tried[r][0].f_measure > 0.96]
    assert min(len(rule.proxies) for rule in harmless) == 2


def test_no_rule_is_made_of_a_proxy_without_an_interval() -> None:
    names = dict.fromkeys(WITHOUT_INTERVAL, BETTER_AFTER)
    site = case("a", "a", [0.1, 0.2, 0.3], silhouette=BETTER_AFTER, spread=BETTER_AFTER, **names)
    assert list(try_rules([site], 0.01, "all")) == [RIGHT]
    # these are the proxies without parts, and no others
    proxies = measure(*people(noise=0.8, shift=0.5)).proxies
    without = {name for name, each in proxies.items() if each is None or each.part is None}
    assert without == set(WITHOUT_INTERVAL)


def test_mean_over_kinds_by_hand() -> None:
    cases = [case(n, kind, [0, 0, 0]) for n, kind in (("a", "x"), ("b", "x"), ("c", "y"))]
    assert mean_over_kinds(cases, [0.0, 0.5, 1.0]) == pytest.approx((0.25 + 1.0) / 2)
    assert math.isnan(mean_over_kinds([], []))


def site_of(tables: list[NDArray[np.float32]], of: Sightings, true: list[float]) -> SiteResult:
    models = tuple(
        ModelResult(f"m{i}", "last", {"market": score}, measure(table, of))
        for i, (table, score) in enumerate(zip(tables, true, strict=True))
    )
    return SiteResult("site", "kind", of.groups, models)


def test_votes_are_those_of_the_gate() -> None:
    made = [people(noise=n, shift=s, count=10) for n, s in ((0.4, 0.2), (1.2, 1.0), (0.8, 0.5))]
    of = made[0][1]
    tables = [table for table, _ in made]
    tables.append(np.tile(tables[0][:1], (len(of), 1)))
    rule = Rule(DEFAULT_RULE.proxies, DEFAULT_RULE.min_votes)
    found = votes_of(site_of(tables, of, [0.9, 0.2, 0.5, 0.01]), rule)
    assert found.collapsed.tolist() == [False, False, False, True]
    promoted = promotions(found, rule.proxies, rule.min_votes)
    assert 0 < promoted.sum() < 12, "both answers are there"
    for old in range(4):
        for new in range(4):
            report = compare(tables[old], tables[new], of, rule=rule)
            if old != new:
                assert (report.verdict == "promote") == promoted[old, new], (old, new)
            for each in report.comparisons:
                if each.difference is not None and not found.collapsed[[old, new]].any():
                    assert found.of[each.name][old, new] == each.vote, each.name


def figures(**values: float) -> ModelFigures:
    proxies: dict[str, ProxyValue | None] = dict.fromkeys(PROXIES)
    return ModelFigures(proxies | {n: ProxyValue(v) for n, v in values.items()}, 0.1, 8)


def test_correlation_by_hand() -> None:
    true = [0.1, 0.2, 0.3, 0.4]
    models = [
        ModelResult(
            str(i), "last", {"market": t}, figures(silhouette=s, camera_bias=1 - s, spread=1)
        )
        for i, (t, s) in enumerate(zip(true, [0.2, 0.1, 0.3, 0.9], strict=True))
    ]
    site = SiteResult("site", "kind", np.arange(3), tuple(models))
    # ranks 2 1 3 4 beside 1 2 3 4: 1 - 6 * 2 / (4 * 15)
    assert correlation(site, "silhouette", "market") == pytest.approx(0.8)
    assert correlation(site, "camera_bias", "market") == pytest.approx(0.8), "less is better"
    assert math.isnan(correlation(site, "spread", "market")), "all the same"
    assert math.isnan(correlation(site, "stability", "market")), "not measured"
