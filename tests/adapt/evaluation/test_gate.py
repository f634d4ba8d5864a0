"""The gate: verdicts on models that are better, worse, alike, collapsed; votes by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import ConfigError, DataError
from adapt.evaluation import gate
from adapt.evaluation.bootstrap import resampled_means
from adapt.evaluation.gate import (
    DEFAULT_RULE,
    GateReport,
    ProxyComparison,
    Rule,
    compare,
    decide,
    vote,
)
from adapt.evaluation.proxies.measure import PROXIES, ModelFigures, measure
from adapt.evaluation.proxies.sightings import Sightings
from tests.support.numbered_sites import people, sightings

GOOD, SITE = people(noise=0.4, shift=0.2)
BAD, _ = people(noise=1.2, shift=1.0)


Measured = dict[tuple[bytes, ...], ModelFigures]


@pytest.fixture(scope="module", autouse=True)
def measured() -> Iterator[Measured]:
    """Each model is measured once; what was, by its embeddings, sightings and seed."""
    made: Measured = {}

    def remembered(
        features: NDArray[np.floating], site: Sightings, *, seed: int = 0
    ) -> ModelFigures:
        seen = (features, site.cameras, site.tracks, site.times)
        key = (*(array.tobytes() for array in seen), str(seed).encode())
        if key not in made:
            made[key] = measure(features, site, seed=seed)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "measure", remembered)
        yield made


def judged(old: NDArray[np.floating], new: NDArray[np.floating]) -> GateReport:
    return compare(old, new, SITE)


def test_better_worse_and_the_same() -> None:
    better, worse, same = judged(BAD, GOOD), judged(GOOD, BAD), judged(GOOD, GOOD)
    assert (better.verdict, worse.verdict, same.verdict) == ("promote", "reject", "hold")
    assert all(reason.startswith("better: ") for reason in better.reasons)
    assert all(reason.startswith("worse: ") for reason in worse.reasons)
    assert same.reasons == (
        "4 of 4 proxies show no clear difference; the votes sum to +0, a verdict needs 2",
    )
    assert [each.name for each in better.comparisons] == list(PROXIES)
    assert (better.crops, better.groups) == (450, 90)


def test_turned_round_every_figure_turns_its_sign() -> None:
    for there, back in zip(
        judged(BAD, GOOD).comparisons, judged(GOOD, BAD).comparisons, strict=True
    ):
        assert there.difference is not None
        assert there.low is not None
        assert there.high is not None
        assert (there.old, there.new) == (back.new, back.old)
        assert back.difference == pytest.approx(-there.difference)
        assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
        assert there.low <= there.difference <= there.high
        assert there.vote == -back.vote


def test_intervals_are_over_tracks() -> None:
    """A track's crops rise and fall together: drawn alone, they would seem surer than they are."""
    report = compare(BAD, GOOD, SITE, seed=3)
    old, new = measure(BAD, SITE, seed=3), measure(GOOD, SITE, seed=3)
    for each in report.comparisons:
        before, after = old.proxies[each.name], new.proxies[each.name]
        assert before is not None
        assert after is not None
        if before.part is None or after.part is None or after.row is None:
            assert (each.low, each.high) == (each.difference, each.difference)
            continue
        gain = (after.part - before.part)[:, None]
        ends = []
        for group in (SITE.tracks[after.row], after.row):
            means = resampled_means(gain, group, rng=np.random.default_rng(3))
            ends.append(np.quantile(means, [0.025, 0.975]))
        over_tracks, over_crops = ends
        assert [each.low, each.high] == pytest.approx(over_tracks.tolist())
        if each.name == "stability":
            assert np.ptp(over_crops) < 0.8 * np.ptp(over_tracks)


def test_the_number_of_dimensions_is_no_matter() -> None:
    wider = np.hstack([GOOD, np.zeros((len(GOOD), 7), np.float32)])
    assert judged(BAD, wider).verdict == "promote"
    assert judged(GOOD, wider).verdict == "hold"


def test_same_seed_same_report(measured: Measured) -> None:
    reports = []
    for _ in range(2):
        measured.clear()
        reports.append(compare(BAD, GOOD, SITE, seed=3))
    one, other = reports
    assert one == other
    assert compare(BAD, GOOD, SITE, seed=4) != one


def broken(rows: slice) -> NDArray[np.float32]:
    found = GOOD.copy()
    found[rows] = np.nan
    return found


def one_cluster() -> NDArray[np.float32]:
    """Two crops in three get one vector; the others are people as before."""
    found = GOOD.copy()
    found[:300] = GOOD[0]
    return found


def nearly_alike() -> NDArray[np.float32]:
    """All crops at a cosine of more than 0.999 with each other."""
    return GOOD[0] + 0.005 * np.random.default_rng(0).normal(size=GOOD.shape).astype(np.float32)


def without(rows: slice) -> NDArray[np.float32]:
    found = GOOD.copy()
    found[rows] = 0
    return found


ALIKE = np.tile(GOOD[:1], (len(GOOD), 1))


@pytest.mark.parametrize(
    ("collapsed", "why"),
    [
        (broken(slice(4, 6)), "NaN or infinity in 2 of its 450 embeddings"),
        (without(slice(7, 10)), "3 of its 450 embeddings are nothing but zeros"),
        (ALIKE, "all its embeddings are alike"),
        (nearly_alike(), "all its embeddings are alike (spread 0.0"),
        (one_cluster(), "one cluster holds 67% of the crops"),
    ],
    ids=["nan", "zeros", "alike", "nearly alike", "one cluster"],
)
def test_collapse(collapsed: NDArray[np.float32], why: str) -> None:
    for old in (GOOD, BAD, collapsed):
        report = judged(old, collapsed)
        assert report.verdict == "reject"
        assert report.reasons[0].startswith("the new model: ")
        assert why in report.reasons[0]
    after = judged(collapsed, BAD)
    assert after.verdict == "promote"
    assert "the old model: " in after.reasons[0]
    assert why in after.reasons[0]


def test_too_few_crops_hold() -> None:
    few = Sightings(SITE.cameras[:60], SITE.tracks[:60], SITE.times[:60])
    report = compare(BAD[:60], GOOD[:60], few)
    assert report.verdict == "hold"
    assert report.reasons == ("too few crops to judge by: 60, and 100 are needed",)
    assert report.comparisons == ()


def test_too_few_tracks_hold() -> None:
    one_track = sightings([0] * 450, tracks=[1] * 450)
    report = compare(BAD, GOOD, one_track)
    assert report.verdict == "hold"
    assert report.reasons[0].startswith("too few tracks and crops without a track to judge by: 1,")


def test_one_camera_without_tracks_leaves_two_voters() -> None:
    report = compare(BAD, GOOD, sightings([0] * 450))
    voters = [each.name for each in report.comparisons if each.voter and each.old is not None]
    assert voters == ["neighborhood_density", "silhouette"]
    rule = Rule(("mutual_neighbors", "camera_bias", "silhouette"), min_votes=2)
    held = compare(BAD, GOOD, sightings([0] * 450), rule=rule)
    assert held.verdict == "hold"
    assert "only 1 of the proxies" in held.reasons[0]


def test_embeddings_of_other_crops_are_refused() -> None:
    with pytest.raises(DataError, match="do not fit 450 crops"):
        judged(GOOD, GOOD[:-1])


def comparison(name: str, cast: int, *, voter: bool = True) -> ProxyComparison:
    return ProxyComparison(name, 0.5, 0.5 + cast / 10, cast / 10, cast / 10, cast / 10, voter, cast)


NAMES = list(PROXIES)[:5]


@pytest.mark.parametrize(
    ("votes", "least", "verdict"),
    [
        ((1, 1, 0, 0, 0), 2, "promote"),
        ((1, 1, 0, 0, -1), 2, "hold"),
        ((1, 1, 1, 0, -1), 2, "promote"),
        ((-1, -1, 0, 0, 0), 2, "reject"),
        ((-1, -1, 1, 0, 0), 2, "hold"),
        ((1, 0, 0, 0, 0), 1, "promote"),
        ((0, 0, 0, 0, 0), 1, "hold"),
        ((1, 1, 1, 1, 1), 5, "promote"),
        ((1, 1, 1, 1, 0), 5, "hold"),
    ],
)
def test_votes_by_hand(votes: tuple[int, ...], least: int, verdict: str) -> None:
    found = tuple(comparison(name, cast) for name, cast in zip(NAMES, votes, strict=True))
    rule = Rule(tuple(NAMES), min_votes=least)
    assert decide(found, rule)[0] == verdict
    # who does not vote changes nothing
    silent = (*found, comparison("spread", -sum(votes) or 1, voter=False))
    assert decide(silent, rule)[0] == verdict


def test_reasons_are_in_words() -> None:
    worse = ProxyComparison("camera_bias", 0.1, 0.3, 0.2, 0.15, 0.25, True, -1)
    _, (reason, short) = decide((worse, comparison("silhouette", 0)), Rule(tuple(NAMES), 2))
    assert reason == (
        "worse: nearest neighbor in the same camera, beyond chance, 0.100 to 0.300 "
        "(+0.200, +0.150 to +0.250)"
    )
    assert short.startswith("1 of 2 proxies show no clear difference; the votes sum to -1")


@pytest.mark.parametrize(
    ("low", "high", "sign", "expected"),
    [
        (0.1, 0.2, 1, 1),
        (-0.2, -0.1, 1, -1),
        (-0.1, 0.1, 1, 0),
        (0.0, 0.2, 1, 0),
        (0.1, 0.2, -1, -1),
    ],
)
def test_vote_by_hand(low: float, high: float, sign: int, expected: int) -> None:
    assert vote(low, high, sign) == expected


@settings(max_examples=100)
@given(votes=st.lists(st.sampled_from([-1, 0, 1]), min_size=5, max_size=5), least=st.integers(1, 5))
def test_verdicts_are_symmetric(votes: list[int], least: int) -> None:
    rule = Rule(tuple(NAMES), min_votes=least)
    turned = {"promote": "reject", "reject": "promote", "hold": "hold"}
    there, back = (
        decide(tuple(comparison(n, s * v) for n, v in zip(NAMES, votes, strict=True)), rule)[0]
        for s in (1, -1)
    )
    assert turned[there] == back
    assert (there == "promote") == (sum(votes) >= least)


@pytest.mark.parametrize(
    ("proxies", "least"),
    [(("sharpness",), 1), (("spread", "spread"), 1), (("spread",), 2), ((), 1), (("spread",), 0)],
)
def test_rules_that_cannot_be(proxies: tuple[str, ...], least: int) -> None:
    with pytest.raises(ConfigError, match="rule"):
        Rule(proxies, least)


def test_report_is_json() -> None:
    content = json.loads(json.dumps(judged(BAD, GOOD).to_dict()))
    assert content["verdict"] == "promote"
    assert set(content["proxies"]) == set(PROXIES)
    assert content["proxies"]["silhouette"]["vote"] == 1
    measured = {name: each["measured"] for name, each in content["proxies"].items()}
    assert measured["silhouette"] == measured["effective_rank"] == 450
    assert 0 < measured["agreement"] <= measured["stability"] < 450
    assert content["min_votes"] == DEFAULT_RULE.min_votes
